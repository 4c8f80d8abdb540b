package peers

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSiteClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c siteClock
		require.Equal(t, time.Now(), c.now(), "the machine's, before anything is known")
		off := 3 * time.Hour
		ask := func(there, back time.Duration) {
			asked := time.Now()
			time.Sleep(there)
			site := time.Now().Add(off)
			time.Sleep(back)
			c.heard(site, asked, time.Now())
		}
		ask(0, 0)
		require.Zero(t, time.Until(c.now())-off)
		ask(0, 10*time.Second)
		ask(10*time.Second, 0)
		require.Zero(t, time.Until(c.now())-off, "a slow answer moves nothing")
		time.Sleep(time.Hour)
		require.Zero(t, time.Until(c.now())-off, "it goes on in between")
		off = -time.Minute
		ask(time.Millisecond, time.Millisecond)
		require.LessOrEqual(t, (time.Until(c.now()) - off).Abs(), 2*time.Millisecond, "the database's clock was set")
	})
}
