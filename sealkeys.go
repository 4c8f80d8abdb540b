package firerunner

import "sync"

// SealKeys is the seal key of a token that may be rotated while FireRunner runs: new guests seal for the newest one, and
// what was sealed before can be opened for as long as this process lives. It may be used by several goroutines.
type SealKeys struct {
	token func() (Secret, error)

	mu    sync.Mutex
	known []rotation // the newest first
}

type rotation struct {
	own Secret
	key *SealKey
}

// rotationsMost is how many earlier tokens are remembered. A job lives for hours, a token for weeks.
const rotationsMost = 4

// NewSealKeys takes where FireRunner's own token is read from.
func NewSealKeys(token func() (Secret, error)) *SealKeys { return &SealKeys{token: token} }

// Public is what a new guest is to seal for.
func (s *SealKeys) Public() (string, error) {
	all, err := s.all()
	if err != nil {
		return "", err
	}
	return all[0].key.Public(), nil
}

// Open opens what was sealed for the token that is in force or one before it. Unauthorized: see SealKey.Open.
func (s *SealKeys) Open(key JobKey, runnerID string, jobID int64) (token Secret, err error) {
	all, err := s.all()
	if err != nil {
		return "", err
	}
	for _, r := range all {
		if token, err = r.key.Open(key, runnerID, jobID); err == nil {
			return token, nil
		}
	}
	return "", err
}

// all reads the token and returns the keys that are known.
func (s *SealKeys) all() ([]rotation, error) {
	own, err := s.token()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) > 0 && s.known[0].own == own {
		return s.known, nil
	}
	key, err := NewSealKey(own)
	if err != nil {
		return nil, err
	}
	s.known = append([]rotation{{own, key}}, s.known[:min(len(s.known), rotationsMost)]...)
	return s.known, nil
}
