package postgres

import "context"

// QueryWriter asks on the connection that writes.
func QueryWriter(ctx context.Context, s *Store, question string, answer *string) error {
	return s.writes.QueryRow(ctx, question).Scan(answer)
}

// Waiting is how many Updates wait for their turn.
func Waiting(s *Store) int { return s.baton.Waiting() }

// Ahead is how far our clock is before another.
var Ahead = ahead
