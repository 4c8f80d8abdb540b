package flintlock

import (
	"regexp"

	"github.com/firerunner/firerunner"
)

// referenceForm is registry/repository[:tag][@digest]. The registry must be told from a part of the repository: it has
// a dot or a port, or is localhost. Without one the host takes the reference and fails later, again and again.
// https://github.com/distribution/reference/blob/main/reference.go has the grammar.
var referenceForm = regexp.MustCompile(`^(localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)` +
	`(/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+` +
	`(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)

// maxReference is the longest reference in bytes.
const maxReference = 512

// checkReference refuses a reference that a host would not find, or, without tags, one whose content can change.
func checkReference(what, ref string, tags bool) error {
	m := referenceForm.FindStringSubmatch(ref)
	switch {
	case ref == "":
		return firerunner.Errorf(firerunner.Invalid, "no %s is named", what).
			WithHint("name one in the image or for the host, as registry.example.com/repository:tag@sha256:...")
	case m == nil || len(ref) > maxReference:
		return firerunner.Errorf(firerunner.Invalid, "%s %.120q does not name registry, repository and tag or digest", what, ref).
			WithHint("write it in full, as registry.example.com/repository:tag@sha256:...")
	case m[4] == "" && m[3] == "":
		return firerunner.Errorf(firerunner.Invalid, "%s %s has neither tag nor digest", what, ref).
			WithHint("add @sha256: and its digest")
	case m[4] == "" && !tags:
		return firerunner.Errorf(firerunner.Invalid, "%s %s has no digest: what is behind a tag can change", what, ref).
			WithHint("add @sha256: and its digest")
	}
	return nil
}
