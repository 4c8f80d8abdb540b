package postgres

import "context"

// QueryWriter asks on the connection that writes.
func QueryWriter(ctx context.Context, s *Store, question string, answer *string) error {
	return s.writes.QueryRow(ctx, question).Scan(answer)
}

// Ahead is how far our clock is before another.
var Ahead = ahead
