# SPDX-License-Identifier: GPL-2.0
# Draws dir/bench.png: the ratio of each row, its spread, its target and its limit.
# Variable: dir.
set terminal pngcairo size 1100,1700 font "sans,12"
set output dir."/bench.png"
set datafile separator ","
set title "what pte\\_ref costs: ratio to stock, lower is better" font ",17"
set grid x linetype 1 linewidth 0.5 linecolor rgb "#dddddd"
set border 3 linecolor rgb "#555555"
set tics nomirror
set key outside bottom center horizontal
set yrange [*:*] reverse
set offsets 0, 0, 0.7, 0.7
set logscale x
set xtics (0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 2, 3, 5, 10)
rows = "< awk -F, '$2 ~ /^(count|turns|rate|kb)$/ && $5 > 0 { s = $6; lo = hi = $5; ".\
	"if (split(s, a, /[.][.]/) == 2) { lo = a[1]; hi = a[2] } ".\
	"print ++n \",\" $1 \",\" $5 \",\" lo \",\" hi \",\" ($7 > 0 ? $7 : \"\") \",\" $8 }' ".\
	dir."/bench.csv"
name(s) = system("echo '".s."' | sed 's/_/\\\\_/g'")
set arrow 1 from first 1, graph 0 to first 1, graph 1 nohead linecolor rgb "#555555"
plot rows using 3:1:4:5:ytic(name(strcol(2))) with xerrorbars pointtype 7 pointsize 1.3 \
	linewidth 2 linecolor rgb "#1b6ca8" title "ratio, spread", \
     rows using 6:1 with points pointtype 2 pointsize 1.5 linewidth 2 linecolor rgb "#2a9d4a" title "target", \
     rows using 7:1 with points pointtype 11 pointsize 1.3 linecolor rgb "#d95f02" title "recorded limit"
