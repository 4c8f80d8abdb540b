package sqlite

// Waiting is how many Updates wait for their turn.
func Waiting(s *Store) int {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	return len(s.writer.line)
}
