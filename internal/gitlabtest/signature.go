package gitlabtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

const signingPrefix = "whsec_"

// signingKey decodes a signing token: whsec_ and 32 bytes in base64.
func signingKey(token string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(token, signingPrefix)
	if !ok {
		return nil, fmt.Errorf("reading a signing token: it does not start with %s", signingPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("reading a signing token: %w", err)
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("reading a signing token: %d bytes are not 32", len(key))
	}
	return key, nil
}

// Sign computes the webhook-signature header, as Standard Webhooks and GitLab 19.0 have it:
// v1, and the base64 of HMAC-SHA256 over id.timestamp.body.
// Source: https://docs.gitlab.com/user/project/integrations/webhooks/
func Sign(signingToken, id, timestamp string, body []byte) (string, error) {
	key, err := signingKey(signingToken)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}
