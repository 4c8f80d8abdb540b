package placement

// draining refuses a host that is to become empty.
func draining() filter {
	return filter{
		refuses: func(_ *want, l *Load) bool { return l.Draining },
		why:     func(*want, *Load) reason { return word("draining") },
		lasting: true,
	}
}
