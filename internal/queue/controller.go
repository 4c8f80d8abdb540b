package queue

import (
	"context"
	"log/slog"
	"slices"

	"github.com/riverqueue/river"

	"github.com/firerunner/firerunner"
)

// controllerQueue is River's name of the queue of the steps that one controller alone may begin.
func controllerQueue(controller string) string {
	if controller == "" {
		return river.QueueDefault
	}
	return "controller_" + controller
}

// clientID is how a process is known in River's rows: the same for each process of a controller, so that what a dead one
// was running is known by it. Two processes of one controller never run at once: its lease sees to that.
func clientID(config Config) string {
	if config.Sole {
		return "" // River makes one up
	}
	return riverID(config.Controller)
}

func riverID(controller string) string { return "firerunner/" + controller }

func queuesOf(config Config) map[string]river.QueueConfig {
	each := river.QueueConfig{MaxWorkers: config.Concurrency}
	return map[string]river.QueueConfig{river.QueueDefault: each, controllerQueue(config.Controller): each}
}

// taker says whose steps are taken back.
type taker struct {
	all        bool
	controller string
}

// takeBack makes due what was running when a process died, without counting it as a failure, and takes River's leadership
// from it, which it would keep for 15 s.
func (q *Queue) takeBack(ctx context.Context, from taker) error {
	n, err := q.river.takeBack(ctx, from)
	if err == nil && n > 0 {
		q.config.Logger.InfoContext(ctx, "steps of a dead process taken back",
			slog.String("controller", from.controller), slog.Int64("steps", n))
	}
	return err
}

// TakeBack makes due what the dead process of another controller was running. Who calls it has that controller's lease.
func (q *Queue) TakeBack(ctx context.Context, controller string) error {
	return q.takeBack(ctx, taker{controller: controller})
}

// Serve begins the steps of another controller too, from now on, and takes back what its dead process was running. Who
// calls it has that controller's lease. Twice is once.
func (q *Queue) Serve(ctx context.Context, controller string) error {
	q.serving.Lock() // not q.mu: who asks whether the queue works need not wait for steps to end
	defer q.serving.Unlock()
	if controller == q.config.Controller || slices.Contains(q.served, controller) {
		return nil
	}
	if err := q.takeBack(ctx, taker{controller: controller}); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "take back the steps of controller %q: %w", controller, err)
	}
	if name := controllerQueue(controller); name != river.QueueDefault {
		if err := q.river.Queues().Add(name, river.QueueConfig{MaxWorkers: q.config.Concurrency}); err != nil {
			return firerunner.Errorf(firerunner.Unavailable, "begin the steps of controller %q: %w", controller, err)
		}
		q.config.Enqueuer.bell.hear(name)
	}
	q.served = append(q.served, controller)
	q.config.Enqueuer.bell.ring()
	return nil
}

// Leave begins no more steps of another controller, and waits for those that run as long as ctx lives. They are
// Unavailable where they do not return in time; another call waits again.
func (q *Queue) Leave(ctx context.Context, controller string) error {
	q.serving.Lock()
	defer q.serving.Unlock()
	if !slices.Contains(q.served, controller) {
		return nil
	}
	if name := controllerQueue(controller); name != river.QueueDefault {
		q.config.Enqueuer.bell.unhear(name)
		if err := q.river.Queues().Remove(ctx, name); err != nil {
			return firerunner.Errorf(firerunner.Unavailable, "leave the steps of controller %q: %w", controller, err)
		}
	}
	q.served = slices.DeleteFunc(q.served, func(name string) bool { return name == controller })
	return nil
}
