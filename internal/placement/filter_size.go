package placement

// tooLarge is the refusal that no waiting will end.
func tooLarge() filter {
	return filter{
		refuses: func(w *want, l *Load) bool { return w.Size.VCPUs > l.VCPUs || w.Size.MemoryMiB > l.MemoryMiB },
		why:     func(w *want, _ *Load) reason { return word("smaller than " + w.Size.String() + " even when empty") },
		lasting: true,
	}
}
