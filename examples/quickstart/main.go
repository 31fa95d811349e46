// Quickstart tells the library's story against a billing API on loopback: no
// flags, no services, under 30 seconds. Each line says what it proves; the exit
// status is not zero when any of it does not hold.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entitlements-go/entitlements"
	"github.com/entitlements-go/entitlements/adapters/paylera"
	"github.com/entitlements-go/entitlements/entitlementstest"
)

const webhookSecret = "whsec_quickstart"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if !run(ctx) {
		os.Exit(1)
	}
}

func run(ctx context.Context) bool {
	// The billing API: a real HTTP server with real faults. In your service it is
	// Paylera, and these four lines are not there.
	billing := entitlementstest.NewBilling(entitlementstest.BillingConfig{})
	defer billing.Close()
	billing.Put("acme", plan(1000))
	billing.Put("bolt", plan(1000))
	billing.Put("cargo", plan(1000))
	billing.Put("dash", plan(1000))

	// What a service sets up: an adapter, and one Client with it on both sides.
	adapter, err := paylera.New(paylera.Config{
		Token:          billing.Token,
		BaseURL:        billing.URL,
		WebhookSecrets: []string{webhookSecret},
	})
	if err != nil {
		log.Fatal(err)
	}
	client, err := entitlements.New(entitlements.Config{
		Source: adapter,
		Sink:   adapter,
		TTL:    2 * time.Second, // short, so that the outage below outlives it
	})
	if err != nil {
		log.Fatal(err)
	}
	webhooks := httptest.NewServer(adapter)
	defer webhooks.Close()
	billing.RegisterWebhook(webhooks.URL, webhookSecret)

	s := &story{ctx: ctx, billing: billing, client: client}
	for _, chapter := range []func(){s.resolve, s.speed, s.stampede, s.usage, s.limits, s.upgrade, s.outage, s.close} {
		chapter()
		if ctx.Err() != nil {
			return false
		}
	}
	if s.failed > 0 {
		fmt.Printf("\n%d of %d claims did not hold.\n", s.failed, s.claims)
		return false
	}
	fmt.Printf("\nAll %d claims held.\n", s.claims)
	return true
}

// plan is what a customer has: a feature, one that an upgrade brings, and a quota.
func plan(calls int64) map[string]entitlements.Grant {
	return map[string]entitlements.Grant{
		"export":    {Kind: entitlements.KindBoolean, Enabled: true},
		"sso":       {Kind: entitlements.KindBoolean, Enabled: false},
		"seats":     {Kind: entitlements.KindNumeric, Enabled: true, Limit: 5},
		"api_calls": {Kind: entitlements.KindMetered, Enabled: true, Limit: calls},
	}
}

type story struct {
	ctx            context.Context
	billing        *entitlementstest.Billing
	client         *entitlements.Client
	claims, failed int
}

func (s *story) chapter(title string) { fmt.Printf("\n%s\n", title) }

func (s *story) claim(holds bool, format string, args ...any) {
	s.claims++
	mark := "  ok    "
	if !holds {
		s.failed++
		mark = "  FAILED"
	}
	fmt.Println(mark, fmt.Sprintf(format, args...))
}

func (s *story) reads() int { return s.billing.Requests(entitlementstest.RouteEntitlements) }

func (s *story) resolve() {
	s.chapter("1. Resolve at the top of a request; everything after it is memory")
	acme, err := s.client.Resolve(s.ctx, "acme")
	s.claim(err == nil, "Resolve loaded acme over HTTP: %d request", s.reads())
	export, sso := s.client.Feature("export"), s.client.Feature("sso")
	s.claim(acme.Allowed(export), "acme may export")
	s.claim(!acme.Allowed(sso), "acme may not use sso: %v", acme.Decide(sso).Reason)
	seats := acme.Number(s.client.Feature("seats"), 1)
	s.claim(seats == 5, "acme has %d seats", seats)
	d, err := s.client.Check(s.ctx, "nobody", "export")
	s.claim(err == nil && !d.Allowed, "a customer that does not exist is a denial (%v), not an error", d.Reason)
}

func (s *story) speed() {
	s.chapter("2. Warm checks run at memory speed")
	before, checks := s.reads(), 0
	begin := time.Now()
	for time.Since(begin) < time.Second {
		for range 1000 {
			s.client.Allowed("acme", "export")
			checks++
		}
	}
	took := time.Since(begin)
	s.claim(checks > 100_000, "%.1f million checks a second on one core of this machine (%v each)",
		float64(checks)/took.Seconds()/1e6, took/time.Duration(checks))
	s.claim(s.reads()-before <= 2, "and the billing API saw %d requests meanwhile: the background refresh", s.reads()-before)
}

func (s *story) stampede() {
	s.chapter("3. A stampede is one request")
	before := s.reads()
	s.billing.Inject(entitlementstest.RouteEntitlements, entitlementstest.Fault{Latency: 100 * time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	allowed := 0
	for range 200 {
		wg.Go(func() {
			if d, err := s.client.Check(s.ctx, "bolt", "export"); err == nil && d.Allowed {
				mu.Lock()
				defer mu.Unlock()
				allowed++
			}
		})
	}
	wg.Wait()
	s.claim(allowed == 200, "%d of 200 concurrent checks of a cold customer were answered", allowed)
	s.claim(s.reads()-before == 1, "with %d upstream call", s.reads()-before)
}

func (s *story) usage() {
	s.chapter("4. Usage is recorded without waiting, and arrives")
	if _, err := s.client.Resolve(s.ctx, "cargo"); err != nil {
		s.claim(false, "resolve cargo: %v", err)
	}
	begin := time.Now()
	for i, customer := range []string{"acme", "bolt", "cargo"} {
		for range 100 * (i + 1) {
			s.client.Track(customer, "api_calls", 1)
		}
	}
	took := time.Since(begin)
	s.claim(took < 50*time.Millisecond, "600 calls of Track took %v", took.Round(time.Microsecond))
	d := s.client.Decide("cargo", "api_calls")
	s.claim(d.Used == 300 && d.Remaining == 700, "Decide knows at once: cargo used %d, %d remain", d.Used, d.Remaining)
	err := s.client.Flush(s.ctx)
	s.claim(err == nil && s.total("acme") == 100 && s.total("bolt") == 200 && s.total("cargo") == 300,
		"billing has acme %d, bolt %d, cargo %d", s.total("acme"), s.total("bolt"), s.total("cargo"))
	sent := s.billing.Requests(entitlementstest.RouteTrack)
	s.claim(sent <= 6, "in %d requests: calls for one customer and feature fold into one record", sent)
}

func (s *story) limits() {
	s.chapter("5. A limit holds, however many ask at once")
	if _, err := s.client.Resolve(s.ctx, "dash"); err != nil {
		s.claim(false, "resolve dash: %v", err)
	}
	reserved, d := s.client.Reserve("dash", "api_calls", 200)
	s.claim(d.Allowed && d.Remaining == 800, "200 of 1000 are held for work whose cost is not known yet: %d remain", d.Remaining)
	var wg sync.WaitGroup
	var allowed atomic.Int64
	for range 64 {
		wg.Go(func() {
			for range 100 {
				if s.client.Use("dash", "api_calls", 1).Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.claim(allowed.Load() == 800, "64 goroutines tried 6400 times: %d were allowed", allowed.Load())
	reserved.Commit(150)
	for range 100 {
		if s.client.Use("dash", "api_calls", 1).Allowed {
			allowed.Add(1)
		}
	}
	s.claim(allowed.Load() == 850, "the work took 150, and gave 50 back: %d in all", allowed.Load())
	s.client.SetShadow("api_calls")
	d = s.client.Decide("dash", "api_calls")
	s.claim(d.Allowed && d.Shadowed, "in shadow mode the next one would get through, and be counted as %v", d.Reason)
	s.client.SetShadow()
	err := s.client.Flush(s.ctx)
	s.claim(err == nil && s.total("dash") == 1000, "billing has %d: each unit that was allowed, once", s.total("dash"))
}

func (s *story) total(customer string) int64 { return s.billing.Total(customer, "api_calls") }

func (s *story) upgrade() {
	s.chapter("6. An upgrade takes effect at once, through a signed webhook")
	s.claim(!s.client.Allowed("acme", "sso"), "before: acme may not use sso")
	upgraded := plan(5000)
	upgraded["sso"] = entitlements.Grant{Kind: entitlements.KindBoolean, Enabled: true}
	begin := time.Now()
	err := s.billing.Change(s.ctx, "acme", upgraded)
	for !s.client.Allowed("acme", "sso") && time.Since(begin) < time.Second {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(begin)
	s.claim(err == nil && took < time.Second, "after:  acme may, %v later", took.Round(time.Millisecond))
}

func (s *story) outage() {
	s.chapter("7. The billing API goes down for 10 seconds (TTL is 2 s)")
	before := s.total("bolt")
	s.billing.SetOutage(true)
	answered, asked := 0, 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && s.ctx.Err() == nil; {
		asked++
		if s.client.Allowed("bolt", "export") {
			answered++
		}
		s.client.Track("bolt", "api_calls", 1)
		time.Sleep(10 * time.Millisecond)
	}
	d := s.client.Decide("bolt", "export")
	s.claim(answered == asked, "%d of %d checks were answered, now from a snapshot that is %v (%v old)",
		answered, asked, d.Origin, d.Age.Round(100*time.Millisecond))
	s.claim(!s.client.Health().Source.Ready, "Health says so: %v", short(s.client.Health().Source.LastError))
	waiting := s.client.Stats().Usage.Pending
	s.claim(s.total("bolt") == before && waiting == uint64(asked), "%d calls of Track wait in memory", waiting)
	s.billing.SetOutage(false)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	err := s.client.Flush(ctx)
	s.claim(err == nil && s.total("bolt") == before+int64(asked), "it is back: all %d arrived exactly once, %v later",
		s.total("bolt")-before, time.Since(begin).Round(100*time.Millisecond))
}

// short is the beginning of an error: the whole of it belongs in a log.
func short(err error) string {
	text := fmt.Sprint(err)
	if len(text) > 60 {
		text = text[:60] + "…"
	}
	return text
}

func (s *story) close() {
	s.chapter("8. Close delivers what is left and accounts for every call")
	for range 42 {
		s.client.Track("cargo", "api_calls", 1)
	}
	err := s.client.Close(s.ctx)
	u := s.client.Stats().Usage
	s.claim(err == nil && s.total("cargo") == 342, "the last 42 calls arrived: cargo %d", s.total("cargo"))
	s.claim(u.Recorded == u.Delivered+u.Pending+u.InDoubt+u.DeadLettered+u.Dropped,
		"%d recorded = %d delivered + %d pending + %d in doubt + %d dead-lettered + %d dropped",
		u.Recorded, u.Delivered, u.Pending, u.InDoubt, u.DeadLettered, u.Dropped)
	billed := s.total("acme") + s.total("bolt") + s.total("cargo") + s.total("dash")
	s.claim(billed == int64(u.Delivered)+149, "and billing counts the same: %d, one call having been for 150", billed)
	s.claim(!s.client.Allowed("acme", "export"), "a closed client answers by policy: %v", s.client.Decide("acme", "export").Reason)
}
