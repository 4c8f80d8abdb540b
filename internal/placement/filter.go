package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A filter refuses hosts. refuses is asked for every host and runner, why only where no host is left. A reason is
// comparable, so that hosts with the same are counted together.
type filter struct {
	refuses func(w *want, l *Load) bool
	why     func(w *want, l *Load) reason
	lasting bool // nothing that ends on the host changes it
}

// reason is why a host cannot carry a runner, in words.
type reason interface{ String() string }

// word is a reason that needs no numbers.
type word string

func (w word) String() string { return string(w) }

// filters returns every filter, the most telling refusal first.
func filters() [11]filter {
	return [...]filter{
		draining(), lost(), trouble(), labels(), tooLarge(), failing(), held(), slots(), vcpus(), memory(), address(),
	}
}

// explain turns counted refusals into words such as "2 hosts: draining; 1 host: 512 of 4096 MiB free, 1024 needed".
func (p *Plan) explain(w *want) string {
	if len(p.loads) == 0 {
		return "there is no host"
	}
	counts := map[reason]int{}
	for i := range p.loads {
		for _, f := range filters() {
			if f.refuses(w, &p.loads[i]) {
				counts[f.why(w, &p.loads[i])]++
				break
			}
		}
	}
	return words(counts)
}

// wordsMost is how many reasons are told one by one: a thousand hosts may have a thousand.
const wordsMost = 8

func words(counts map[reason]int) string {
	type said struct {
		text  string
		hosts int
	}
	all := make([]said, 0, len(counts))
	for why, n := range counts {
		all = append(all, said{why.String(), n})
	}
	slices.SortFunc(all, func(a, b said) int {
		return cmp.Or(cmp.Compare(b.hosts, a.hosts), strings.Compare(a.text, b.text))
	})
	var parts []string
	others := 0
	for i, s := range all {
		if i >= wordsMost {
			others += s.hosts
			continue
		}
		parts = append(parts, fmt.Sprintf("%s: %s", hosts(s.hosts), s.text))
	}
	if others > 0 {
		parts = append(parts, hosts(others)+": other reasons")
	}
	return strings.Join(parts, "; ")
}

func hosts(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}
