package firerunner_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/firerunner/firerunner"
)

const (
	ownToken = Secret("glpat-of-a-test-only")
	jobToken = Secret("glcbt-of-a-test-only")
)

func sealKeyOf(t testing.TB, own Secret) *SealKey {
	k, err := NewSealKey(own)
	require.NoError(t, err)
	return k
}

func TestJobKeyOK(t *testing.T) {
	t.Parallel()
	k := sealKeyOf(t, ownToken)
	for _, token := range []Secret{jobToken, Secret(strings.Repeat("x", MaxJobToken))} {
		sealed, err := SealJobKey(k.Public(), "runner1", 7, token)
		require.NoError(t, err)
		require.True(t, sealed.Valid())
		require.NotContains(t, string(sealed), token.Reveal())
		// Any controller with the same token opens it: nothing else is needed, and nothing is written down.
		opened, err := sealKeyOf(t, ownToken).Open(sealed, "runner1", 7)
		require.NoError(t, err)
		require.Equal(t, token.Reveal(), opened.Reveal())
	}
	again, err := SealJobKey(k.Public(), "runner1", 7, jobToken)
	require.NoError(t, err)
	first, err := SealJobKey(k.Public(), "runner1", 7, jobToken)
	require.NoError(t, err)
	require.NotEqual(t, first, again, "who reads two cannot tell whether they hold the same")
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k)} {
		require.Equal(t, "seal key", text)
	}
}

// TestJobKeyDerivedOK holds the derivation: a controller of another version must open what this one's guests sealed.
func TestJobKeyDerivedOK(t *testing.T) {
	t.Parallel()
	require.Equal(t, "4FuETa7H1f50qo3PBNN15QZIhkZSTuNi-mCm9xwbXEw", sealKeyOf(t, ownToken).Public())
}

func TestJobKeyErr(t *testing.T) {
	t.Parallel()
	k := sealKeyOf(t, ownToken)
	sealed, err := SealJobKey(k.Public(), "runner1", 7, jobToken)
	require.NoError(t, err)
	flipped := []byte(sealed)
	flipped[len(flipped)/2] ^= 1
	odd, err := SealJobKey(k.Public(), "runner1", 7, "two words\r\nX-Header: 1")
	require.NoError(t, err, "a hostile guest seals what it likes")
	for name, open := range map[string]func() (Secret, error){
		"another runner":    func() (Secret, error) { return k.Open(sealed, "runner2", 7) },
		"another job":       func() (Secret, error) { return k.Open(sealed, "runner1", 8) },
		"the token rotated": func() (Secret, error) { return sealKeyOf(t, "glpat-another").Open(sealed, "runner1", 7) },
		"broken":            func() (Secret, error) { return k.Open(JobKey(flipped), "runner1", 7) },
		"short":             func() (Secret, error) { return k.Open("AAAA", "runner1", 7) },
		"empty":             func() (Secret, error) { return k.Open("", "runner1", 7) },
		"no base64":         func() (Secret, error) { return k.Open("a b", "runner1", 7) },
		"too long":          func() (Secret, error) { return k.Open(JobKey(strings.Repeat("A", MaxJobKey+1)), "runner1", 7) },
		"no header":         func() (Secret, error) { return k.Open(odd, "runner1", 7) },
	} {
		token, err := open()
		require.Equal(t, Unauthorized, CodeOf(err), name)
		require.Empty(t, token, name)
		require.NotContains(t, err.Error(), jobToken.Reveal(), name)
	}
	for name, public := range map[string]string{"empty": "", "no base64": "a b", "short": "AAAA"} {
		_, err := SealJobKey(public, "runner1", 7, jobToken)
		require.Equal(t, Invalid, CodeOf(err), name)
	}
	for _, token := range []Secret{"", Secret(strings.Repeat("x", MaxJobToken+1))} {
		_, err := SealJobKey(k.Public(), "runner1", 7, token)
		require.Equal(t, Invalid, CodeOf(err))
	}
	_, err = NewSealKey("")
	require.Equal(t, Invalid, CodeOf(err))
}

func FuzzOpenJobKey(f *testing.F) {
	k := sealKeyOf(f, ownToken)
	sealed, err := SealJobKey(k.Public(), "runner1", 7, jobToken)
	require.NoError(f, err)
	f.Add(string(sealed), "runner1", int64(7))
	f.Add("AAAA", "", int64(-1))
	f.Fuzz(func(t *testing.T, key, runner string, job int64) {
		token, err := k.Open(JobKey(key), runner, job)
		if err == nil {
			require.True(t, runner == "runner1" && job == 7 && token == jobToken) // each process of a fuzz run seals it anew
		}
	})
}

func TestSealKeysRotatedOK(t *testing.T) {
	t.Parallel()
	own, broken := ownToken, error(nil)
	keys := NewSealKeys(func() (Secret, error) { return own, broken })
	before, err := keys.Public()
	require.NoError(t, err)
	sealed, err := SealJobKey(before, "runner1", 7, jobToken)
	require.NoError(t, err)

	own = "glpat-the-next"
	after, err := keys.Public()
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	opened, err := keys.Open(sealed, "runner1", 7)
	require.NoError(t, err, "this process knows the token before")
	require.Equal(t, jobToken.Reveal(), opened.Reveal())

	_, err = NewSealKeys(func() (Secret, error) { return own, nil }).Open(sealed, "runner1", 7)
	require.Equal(t, Unauthorized, CodeOf(err), "the next process does not")

	broken = Errorf(Invalid, "reading the token")
	_, err = keys.Public()
	require.Equal(t, Invalid, CodeOf(err))
	_, err = keys.Open(sealed, "runner1", 7)
	require.Equal(t, Invalid, CodeOf(err))
}
