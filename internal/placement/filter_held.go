package placement

// held refuses a host that is kept free for a larger runner, which has waited for long: see hold.
func held() filter {
	return filter{
		refuses: func(w *want, l *Load) bool { return l.kept != nil && l.kept.ID != w.ID },
		why: func(_ *want, l *Load) reason {
			return word("kept free for " + l.kept.Size.String() + ", which has waited for longer")
		},
	}
}
