package queue

import "context"

// FindLostOnce looks for steps whose end was not written, however short ago they began.
func (q *Queue) FindLostOnce(ctx context.Context) (int, error) { return q.findLostOnce(ctx, 0) }
