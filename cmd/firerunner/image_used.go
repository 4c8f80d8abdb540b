package main

import (
	"context"
	"strings"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// usedImages returns the digests that runners which still live boot from. A machine that has never served has no
// database and no runner; none is made for the question.
func (a *app) usedImages(ctx context.Context) (map[string]bool, error) {
	cfg, err := a.load(true)
	if err != nil {
		return nil, err
	}
	path := strings.TrimPrefix(cfg.Database, "sqlite://")
	if !exists(path) {
		return nil, nil
	}
	store, err := sqlite.Open(ctx, sqlite.Config{Path: path})
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
