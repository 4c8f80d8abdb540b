package row

import "github.com/firerunner/firerunner"

// CheckSave fails with Conflict where a runner may not be saved over the known one: see firerunner.Tx. Whether its address is
// another's is for the database to say.
func CheckSave(known, next firerunner.Runner) error {
	var why string
	switch {
	case next.Version != known.Version:
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: it was saved by another: version %d, not %d", next.ID, known.Version, next.Version)
	case next.State < known.State:
		why = "a runner's state never falls"
	case known.Outcome != "" && next.Outcome != known.Outcome:
		why = "an outcome is written once"
	case known.Desired == firerunner.Unwanted && next.Desired != firerunner.Unwanted:
		why = "an unwanted runner stays unwanted"
	default:
		return nil
	}
	return firerunner.Errorf(firerunner.Conflict, "save runner %q: %s", next.ID, why)
}
