package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// options are the command's flags.
type options struct {
	listen, control, dir, cache             string
	tokenFile, tlsCert, tlsKey, tlsClientCA string
	insecure, routes                        []string
	accel, capacity                         string
	volumeMiB                               int
	public                                  bool
	retryDelay, resync, restartAfter        time.Duration
}

// config makes a host's configuration of the flags.
func (o *options) config(log *slog.Logger) (flintlocktest.Config, error) {
	cfg := flintlocktest.Config{
		Addr: o.listen, Dir: o.dir, Logger: log, Seed: uint64(time.Now().UnixNano()),
		RetryDelay: o.retryDelay, ResyncPeriod: o.resync, RestartAfter: o.restartAfter,
	}
	var err error
	if cfg.TLS, err = o.tls(); err != nil {
		return cfg, err
	}
	if cfg.Capacity, err = parseCapacity(o.capacity); err != nil {
		return cfg, err
	}
	if o.tokenFile != "" {
		token, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return cfg, fmt.Errorf("--token-file: %w", err)
		}
		if cfg.Token = firerunner.Secret(strings.TrimSpace(string(token))); cfg.Token == "" {
			return cfg, fmt.Errorf("--token-file: %s is empty", o.tokenFile)
		}
	}
	policy := firerunner.NetworkPolicy{Public: o.public}
	for _, text := range o.routes {
		route, err := parseRoute(text)
		if err != nil {
			return cfg, err
		}
		policy.Routes = append(policy.Routes, route)
	}
	switch o.accel {
	case "none":
		return cfg, nil
	case "tcg", "kvm":
	default:
		return cfg, fmt.Errorf("--accel %s: it is tcg, kvm or none", o.accel)
	}
	cache := o.cache
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return cfg, fmt.Errorf("no folder for pulled images, name one with --cache: %w", err)
		}
		cache = filepath.Join(base, "flintlocktest")
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return cfg, fmt.Errorf("--cache: %w", err)
	}
	cfg.Images = &flintlocktest.Registry{CacheDir: cache, Insecure: o.insecure, VolumeMiB: o.volumeMiB}
	cfg.VMM = &flintlocktest.QEMU{Accel: o.accel, Logger: log, Network: connector(policy, log)}
	return cfg, nil
}

func (o *options) tls() (*tls.Config, error) {
	if o.tlsCert == "" && o.tlsKey == "" && o.tlsClientCA == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(o.tlsCert, o.tlsKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	if o.tlsClientCA == "" {
		return cfg, nil
	}
	text, err := os.ReadFile(o.tlsClientCA)
	if err != nil {
		return nil, fmt.Errorf("--tls-client-ca: %w", err)
	}
	cfg.ClientCAs, cfg.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !cfg.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--tls-client-ca: no certificate in %s", o.tlsClientCA)
	}
	return cfg, nil
}

// parseCapacity reads VCPUS:MIB; empty is no limit.
func parseCapacity(text string) (flintlocktest.Capacity, error) {
	if text == "" {
		return flintlocktest.Capacity{}, nil
	}
	vcpus, memory, _ := strings.Cut(text, ":")
	v, err := strconv.Atoi(vcpus)
	m, err2 := strconv.Atoi(memory)
	if err = errors.Join(err, err2); err != nil || v < 1 || m < 1 {
		return flintlocktest.Capacity{}, fmt.Errorf("--capacity %s: it is VCPUS:MIB, such as 8:16384", text)
	}
	return flintlocktest.Capacity{VCPUs: v, MemoryMiB: m}, nil
}

// parseRoute reads NAME:PORT=HOST:PORT.
func parseRoute(text string) (firerunner.NetworkRoute, error) {
	guest, dial, found := strings.Cut(text, "=")
	name, port, named := strings.Cut(guest, ":")
	number, err := strconv.ParseUint(port, 10, 16)
	if !found || !named || err != nil || name == "" || dial == "" {
		return firerunner.NetworkRoute{}, fmt.Errorf("--route %s: it is NAME:PORT=HOST:PORT, such as gitlab:80=127.0.0.1:8080", text)
	}
	return firerunner.NetworkRoute{Name: name, Port: int(number), Dial: dial}, nil
}
