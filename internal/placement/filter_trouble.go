package placement

// trouble refuses a host that says that it cannot work just now, or does not answer since a moment.
func trouble() filter {
	return filter{
		refuses: func(_ *want, l *Load) bool { return l.Trouble != "" },
		why:     func(_ *want, l *Load) reason { return word("in trouble: " + l.Trouble) },
		lasting: true,
	}
}
