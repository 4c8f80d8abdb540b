package placement

import (
	"slices"
	"strings"
)

// labels refuses a host that lacks a label which the runner's profile asks for.
func labels() filter {
	return filter{
		refuses: func(w *want, l *Load) bool {
			for _, label := range w.labels {
				if !slices.Contains(l.Labels, label) {
					return true
				}
			}
			return false
		},
		why: func(w *want, l *Load) reason {
			var missing []string
			for _, label := range w.labels {
				if !slices.Contains(l.Labels, label) {
					missing = append(missing, label)
				}
			}
			return word("without label " + strings.Join(missing, ", ") + " of profile " + w.Profile)
		},
		lasting: true,
	}
}
