package sqlite

// Waiting is how many Updates wait for their turn.
func Waiting(s *Store) int { return s.baton.Waiting() }
