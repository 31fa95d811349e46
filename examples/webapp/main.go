// Webapp is an HTTP service with a gated and a metered endpoint. On SIGTERM it
// drains its requests first and its usage second, so that a deploy loses neither;
// what it can't deliver, and what a process that is killed had counted, is on disk
// and is delivered by the next run.
//
//	go run ./examples/webapp
//
// Without PAYLERA_TOKEN it brings its own billing API on loopback, with the
// customers acme and bolt.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	state := flag.String("state", stateDir(), "directory for usage and entitlements")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, *addr, *state, log); err != nil {
		log.Error("webapp failed", "error", err)
		os.Exit(1)
	}
}

// stateDir is where a user's programs keep what they need again.
func stateDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "entitlements-webapp")
}

func serve(ctx context.Context, addr, state string, log *slog.Logger) error {
	cfg := paylera.Config{Token: os.Getenv("PAYLERA_TOKEN"), Logger: log}
	if secret := os.Getenv("PAYLERA_WEBHOOK_SECRET"); secret != "" {
		cfg.WebhookSecrets = []string{secret}
	}
	if cfg.Token == "" {
		billing := demoBilling()
		defer billing.Close()
		cfg.Token, cfg.BaseURL = billing.Token, billing.URL
		log.Info("no PAYLERA_TOKEN: using a billing API on loopback", "url", billing.URL)
	}
	adapter, err := paylera.New(cfg)
	if err != nil {
		return err
	}
	client, err := entitlements.New(entitlements.Config{
		Source:       adapter,
		Sink:         adapter,
		SpoolDir:     filepath.Join(state, "usage"), // survives the process, however it ends
		SnapshotFile: filepath.Join(state, "entitlements"),
		// Exports are a courtesy: better a free one than none while billing is down.
		FeaturePolicy: map[string]entitlements.Policy{"export": entitlements.FailOpen},
		DeadLetter: func(u entitlements.Usage, err error) {
			log.Error("usage was refused", "customer", u.Customer, "feature", u.Feature, "id", u.ID, "error", err)
		},
		Logger: log,
	})
	if err != nil {
		return err
	}

	server := &http.Server{Addr: addr, Handler: routes(client, adapter), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }() // ends with Shutdown below
	log.Info("listening", "addr", addr)
	select {
	case err := <-failed:
		return errors.Join(err, client.Close(ctx))
	case <-ctx.Done():
	}

	// Requests end before the client does: the last of them still count.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	log.Info("draining")
	return errors.Join(server.Shutdown(ending), client.Close(ending))
}

// demoBilling is what `go run` without a token talks to.
func demoBilling() *entitlementstest.Billing {
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	billing.Put("acme", map[string]entitlements.Grant{
		"export":      {Enabled: true},
		"completions": {Kind: entitlements.KindMetered, Enabled: true, Limit: 5},
	})
	billing.Put("bolt", map[string]entitlements.Grant{"export": {Enabled: false}})
	return billing
}
