package image

import (
	"context"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Anonymous is a way to registries without credentials, as flintlockd's hosts have it.
func Anonymous() Registry { return Registry{Keys: authn.NewMultiKeychain()} }

// Check asks whether a container image is there and may be read. Nothing of it is downloaded. NotFound, Unauthorized and
// Unavailable are as Pull has them.
func (g Registry) Check(ctx context.Context, ref string) error {
	c, err := g.connect(ctx, ref)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.resolve(c.ref); err != nil {
		return c.fail("look for", err)
	}
	return nil
}
