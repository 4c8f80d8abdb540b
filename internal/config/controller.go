package config

import (
	"regexp"
	"time"
)

// A controller's name is part of names on hosts, which are short, and of those of queues.
var controllerForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

const (
	controllerLongest = 15
	leaseShortest     = 2 * time.Second
	leaseLongest      = time.Minute
)

func (k *checker) controller() {
	name := k.Controller.Name
	if name != "" && (len(name) > controllerLongest || !controllerForm.MatchString(name)) {
		k.problem("controller.name", "%q is not 1 to %d of a-z, 0-9 and single dashes", short(name), controllerLongest).Hint = "such as a, or rack1-b"
	}
	if t := k.Controller.LeaseTime; t < leaseShortest || t > leaseLongest {
		k.problem("controller.lease_time", "%s is not between %s and %s", t, leaseShortest, leaseLongest)
	}
}
