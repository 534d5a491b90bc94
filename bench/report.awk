# SPDX-License-Identifier: GPL-2.0
# The rows of bench/limits with their figures, of arch; see report.sh.

function sorted(row, kernel, list,   i, j, t, n)
{
	n = rounds[row, kernel]
	for (i = 1; i <= n; i++) {
		t = figure[row, kernel, i]
		for (j = i - 1; j && list[j] > t; j--)
			list[j + 1] = list[j]
		list[j + 1] = t
	}
	return n
}

function least(row, kernel,   list)
{
	sorted(row, kernel, list)
	return list[1]
}

function most(row, kernel,   list, n)
{
	n = sorted(row, kernel, list)
	return list[n]
}

function median(row, kernel,   list, n)
{
	n = sorted(row, kernel, list)
	return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

# Of the ratio, over the rounds.
function spread(row, form)
{
	if (rounds[row, "ratio"] < 2)
		return "-"
	if (least(row, "stock") == most(row, "stock") &&
	    least(row, "pte_ref") == most(row, "pte_ref"))
		return "same"
	return sprintf(form ".." form, least(row, "ratio"), most(row, "ratio"))
}

# 1234567.8 is 1,234,567.8.
function grouped(x,   i, n)
{
	n = x
	i = index(n, ".") ? index(n, ".") - 3 : length(n) - 2
	for (; i > 1 && n ~ /^[0-9]/; i -= 3)
		n = substr(n, 1, i - 1) "," substr(n, i)
	return n
}

/^#/ || !NF {
	next
}

FILENAME == ARGV[1] {
	if (($6 == "all" || $6 == run) && !(arch == "arm64" && $5 == "-")) {
		order[++all] = $1
		measure[$1] = $2
		target[$1] = $3
		limit[$1] = arch != "arm64" || $5 == "=" ? $4 : $5
		for (i = 7; i <= NF; i++)
			text[$1] = text[$1] (i > 7 ? " " : "") $i
	}
	next
}

{
	if (!($3 in measure)) {
		order[++all] = $3
		measure[$3] = limit[$3] = target[$3] = "?"
	}
	if ($4 ~ /^(-?[0-9.]+|never)$/)
		figure[$3, $1, ++rounds[$3, $1]] = $4 == "never" ? $4 : $4 + 0
}

END {
	print "row", "measure", "stock", "pte_ref", "ratio", "spread", "target", "limit", "verdict"
	print "| " (run == "quick" ? "make bench QUICK=1" : "make bench") " | | stock | pte_ref | ratio | target |\n|---|---|---:|---:|---:|---:|" >markdown
	for (r = 1; r <= all; r++) {
		row = order[r]
		m = measure[row]
		form = "%.3f"
		s = p = ratio = "-"
		n = rounds[row, "stock"]
		if (!n || n != rounds[row, "pte_ref"]) {
			verdict = "NO FIGURE"
		} else if (limit[row] !~ /^[0-9.]+$/) {
			verdict = "NO LIMIT"
		} else {
			for (i = 1; i <= n; i++) {
				s = figure[row, "stock", i]
				p = figure[row, "pte_ref", i]
				figure[row, "ratio", i] = m ~ /^(rate|turns)$/ ? s / p : \
					m ~ /^(count|kb)$/ ? p / s : m == "bytes" ? p - s : p
			}
			rounds[row, "ratio"] = n
			if (m ~ /^(rate|turns)$/) {
				s = median(row, "stock")
				p = median(row, "pte_ref")
				ratio = median(row, "ratio")
			} else if (m ~ /^(count|kb)$/) {
				s = least(row, "stock")
				p = least(row, "pte_ref")
				ratio = p / s
			} else {
				s = most(row, "stock")
				p = most(row, "pte_ref")
				ratio = m == "bytes" ? p - s : p
				form = "%.1f"
			}
			verdict = ratio == "never" || ratio > limit[row] + 0 ? "ABOVE" : \
				target[row] == "-" || ratio <= target[row] + 0 ? "target" : "open"
		}
		print row, m, s, p, ratio ~ /^(-|never)$/ ? ratio : sprintf(form, ratio),
			verdict ~ /^NO/ ? "-" : spread(row, form), target[row], limit[row], verdict
		if (n)
			print "| " text[row] " | " m " | " grouped(s) " | " grouped(p) " | " \
				(m ~ /^(bytes|ms)$/ || ratio == "never" ? "" : sprintf(form, ratio)) \
				" | " (target[row] == "-" ? "" : target[row]) " |" >markdown
	}
}
