package placement

// address refuses a host whose address pool is used up. A host without a pool gives addresses by itself.
func address() filter {
	return filter{
		refuses: func(_ *want, l *Load) bool { return !l.Addresses.Empty() && !l.free.IsValid() },
		why: func(_ *want, l *Load) reason {
			return word("all addresses from " + l.Addresses.First.String() + " to " + l.Addresses.Last.String() + " taken")
		},
	}
}
