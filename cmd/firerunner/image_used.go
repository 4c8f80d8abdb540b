package main

import (
	"context"
	"log/slog"

	"github.com/firerunner/firerunner"
)

// usedImages returns the digests that runners which still live boot from. A machine that has never served has no
// database and no runner; none is made for the question.
func (a *app) usedImages(ctx context.Context) (map[string]bool, error) {
	cfg, err := a.load(true)
	if err != nil {
		return nil, err
	}
	db := databaseOf(cfg, slog.New(slog.DiscardHandler))
	if err := db.there(ctx); firerunner.CodeOf(err) == firerunner.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	store, err := db.open(ctx)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	runners, err := store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, r := range runners {
		used[r.Image] = true
	}
	return used, nil
}
