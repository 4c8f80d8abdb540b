package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// jobUser is who jobs run as. The image has such a user.
const jobUser = "ci"

type account struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser reads one account from /etc/passwd: passwd(5).
func findUser(passwd, name string) (account, error) {
	text, err := os.ReadFile(passwd)
	if err != nil {
		return account{}, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 || f[0] != name {
			continue
		}
		uid, uidErr := strconv.ParseUint(f[2], 10, 32)
		gid, gidErr := strconv.ParseUint(f[3], 10, 32)
		if uidErr != nil || gidErr != nil || uid == 0 || f[5] == "" {
			return account{}, fmt.Errorf("user %s in %s: not an ordinary user", name, passwd)
		}
		return account{name, uint32(uid), uint32(gid), f[5]}, nil
	}
	return account{}, fmt.Errorf("no user %s in %s", name, passwd)
}
