# SPDX-License-Identifier: GPL-2.0
# Draws dir/vmpte.png: VmPTE of each workload over its course, both kernels.
# Variables: dir, gib_a, gib_b, for pages of 4 kB; page_kb, and how much larger a table is.
set terminal pngcairo size 1500,900 font "sans,12"
set output dir."/vmpte.png"
set datafile separator ","
set multiplot layout 2,3 margins 0.06,0.985,0.075,0.88 spacing 0.055,0.14 \
	title "VmPTE: memory held by the page tables of one process\n" font ",17"
set grid linetype 1 linewidth 0.5 linecolor rgb "#dddddd"
set border 3 linecolor rgb "#555555"
set tics nomirror
set key left top Left reverse samplen 2
set style line 1 linewidth 5 linecolor rgb "#d95f02"
set style line 2 linewidth 2.5 linecolor rgb "#1b6ca8"
file(kernel, workload) = dir."/".kernel."-".workload.".csv"

set ylabel "VmPTE, MiB"
top = gib_b * page_kb / 2.0
size(kib) = kib < 1024 ? sprintf("%d KiB", kib) : sprintf("%d MiB", kib / 1024)
set xlabel "seconds"
set xrange [0:*]
set yrange [0:top * 1.25]
do for [w in "a b64 b4"] {
	gib = larger * (w eq "a" ? gib_a : gib_b)
	piece = size(larger * (w eq "a" ? 2048 : w eq "b64" ? 64 : 4))
	set title sprintf("(%s) %d GiB touched, freed in pieces of %s", w[1:1], gib, piece)
	plot file("stock", w) using 2:($3 / 1024) with lines linestyle 1 title "stock", \
	     file("pte_ref", w) using 2:($3 / 1024) with lines linestyle 2 title "pte\\_ref"
}

set xlabel "seconds since the start of the server"
set yrange [0:*]
set offsets 0, 0, graph 0.25, 0
do for [w in "jemalloc tcmalloc"] {
	set title sprintf("(c) redis-server, %s: filled, then flushed", w)
	plot file("stock", w) using 1:($2 / 1024) with lines linestyle 1 title "stock", \
	     file("pte_ref", w) using 1:($2 / 1024) with lines linestyle 2 title "pte\\_ref"
}

# The last cell: both kernels after each workload.
set offsets 0, 0, 0, 0
set datafile separator "\t"
set title "at the end of each workload"
set xlabel "workload"
set style data histogram
set style histogram clustered gap 1
set style fill solid noborder
set xrange [-0.5:4.5]
set yrange [0:top * 1.25]
end(kernel) = "< awk -F'\\t' '$2 == \"end\"' ".dir."/".kernel.".tsv"
name(w) = w[1:1] eq "b" ? "(b) ".size(larger * w[2:*]) : w eq "a" ? "(a)" : w
plot end("stock") using ($3 / 1024):xtic(name(stringcolumn(1))) linestyle 1 title "stock", \
     end("pte_ref") using ($3 / 1024) linestyle 2 title "pte\\_ref"
unset multiplot
