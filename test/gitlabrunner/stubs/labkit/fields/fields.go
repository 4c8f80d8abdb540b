// Package fields has names of log fields.
package fields

// Names that gitlab-runner logs requests with.
const (
	HTTPStatusCode = "status"
	DurationS      = "duration_s"
)

// Deprecated would say what an old name is called now: nothing is renamed.
var Deprecated map[string]struct{ Standard string }

// VariantVersion would count the variants of a name.
var VariantVersion map[string]int
