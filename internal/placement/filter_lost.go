package placement

// lost refuses a host that has been silent for too long.
func lost() filter {
	return filter{
		refuses: func(_ *want, l *Load) bool { return l.Lost },
		why:     func(*want, *Load) reason { return word("lost: it does not answer") },
		lasting: true,
	}
}
