package placement

// Failing is an image that a host did not bring up the last time, or the last times.
type Failing struct {
	Image string
	Host  string
	// Why no runner with the image is placed there now; empty: one may be, to see whether it comes up.
	Why string
}

// pair is an image on a host.
type pair struct{ image, host string }

// failing refuses a host where the runner's image has failed of late: until its pause is over, and then to all but one.
func failing() filter {
	return filter{
		refuses: func(w *want, l *Load) bool { return w.failing[pair{w.image, l.Name}] != "" },
		why:     func(w *want, l *Load) reason { return word(w.failing[pair{w.image, l.Name}]) },
		lasting: true,
	}
}

// tried is why a second runner is not placed where one is to show whether its image comes up.
const tried = "its image failed there, and is being tried with another runner"
