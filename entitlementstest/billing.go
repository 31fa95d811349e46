package entitlementstest

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entitlements-go/entitlements"
)

// BillingConfig sets up a [Billing]. Its zero value works.
type BillingConfig struct {
	// Token and CoreToken are the bearer tokens that are accepted. The prefix of
	// the one that a request carries says which family of the contract answers
	// it: pl_ is the SDK family, sk_ the core family; they differ in how errors
	// look. Default to a pl_test_ and an sk_sandbox_ token.
	Token, CoreToken string

	// Shape says how features are listed. Defaults to ShapeMap.
	Shape Shape

	// Spelling says which of the known names a feature's fields have. Defaults
	// to SpellingPlain.
	Spelling Spelling

	// ETag says what an entity tag covers. Defaults to ETagAll.
	ETag ETag

	// Meters sets up meters by code. A feature with a metered grant is a meter
	// of the same code by itself, that sums whole units. Defaults to nil.
	Meters map[string]Meter

	// RateLimits defaults to none.
	RateLimits RateLimits

	// IdempotencyWindow is how long an Idempotency-Key is kept. Defaults to 24 h.
	IdempotencyWindow time.Duration

	// IdempotencyKeys is the most keys that are kept; the oldest goes first.
	// Defaults to 1 048 576, about 300 MB of them.
	IdempotencyKeys int

	// DedupWindow is how long an external_id is recognised. Defaults to 0: for
	// ever; negative is never, for what a program would bill without dedupe.
	DedupWindow time.Duration

	// UsageLag makes reads late: usage shows that long after it was accepted,
	// while as_of still claims the moment of the read. Defaults to 0.
	UsageLag time.Duration

	// InMemory listens on a network of its own inside the process, which only
	// [Billing.Client] reaches: for testing/synctest bubbles, where a wait for a
	// real socket would stop the clock. Defaults to loopback.
	InMemory bool
}

// Billing is a billing API that speaks both families of the Paylera HTTP
// contract, for tests and for programs that want something to talk to.
//
// A subscription's id is the customer key, unless [Billing.SetCustomer] says
// otherwise. Usage that it accepts shows in the next read, in the period that
// the event's timestamp lies in; as_of is taken under the same lock as the
// figures, so it is exact.
//
// Accepted events and their ids are kept for its life. It is safe for concurrent
// use. The wire facts are those of docs.paylera.com; where the pages are silent
// the choice is marked as an assumption at the code that makes it.
type Billing struct {
	// URL is the base URL, without a slash at its end.
	URL string

	// Token is accepted and belongs to the SDK family, CoreToken to the core
	// family.
	Token, CoreToken string

	cfg      BillingConfig
	server   *http.Server
	client   *http.Client
	offset   atomic.Int64 // what the backend's clock is ahead of ours, in ns
	outage   atomic.Bool
	serial   atomic.Uint64 // for request ids
	tokens   tokens
	ledger   ledger
	keys     idempotencyKeys
	faults   faultPlan
	limits   rateLimiter
	webhooks webhooks
	requests requestLog

	closing   chan struct{}
	closeOnce sync.Once
	wg        sync.WaitGroup
}

// NewBilling starts a billing API. Like httptest.NewServer it panics when
// loopback cannot be listened on, or when cfg makes no sense. Close it.
func NewBilling(cfg BillingConfig) *Billing {
	cfg = cfg.withDefaults()
	b := &Billing{Token: cfg.Token, CoreToken: cfg.CoreToken, cfg: cfg, closing: make(chan struct{})}
	b.tokens.put(cfg.Token, tokenValid)
	b.tokens.put(cfg.CoreToken, tokenValid)
	b.ledger.init(cfg)
	b.keys.init(cfg.IdempotencyWindow, cfg.IdempotencyKeys)
	b.faults.init()
	b.limits.init(cfg.RateLimits)

	var listener net.Listener
	if cfg.InMemory {
		pipes := newPipeListener()
		listener, b.URL = pipes, "http://billing.invalid"
		b.client = &http.Client{Transport: &http.Transport{DialContext: pipes.dial}}
	} else {
		var err error
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			panic("entitlementstest: listen on loopback: " + err.Error())
		}
		b.URL = "http://" + listener.Addr().String()
		b.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	}
	b.webhooks.init()
	b.server = &http.Server{Handler: b, ErrorLog: discardLog(), ReadHeaderTimeout: time.Minute}
	// Owned by b, ends when Close closes the listener.
	b.wg.Go(func() { _ = b.server.Serve(listener) })
	return b
}

func (cfg BillingConfig) withDefaults() BillingConfig {
	if cfg.Token == "" {
		cfg.Token = "pl_test_entitlementstest"
	}
	if cfg.CoreToken == "" {
		cfg.CoreToken = "sk_sandbox_entitlementstest"
	}
	if cfg.IdempotencyWindow == 0 {
		cfg.IdempotencyWindow = 24 * time.Hour
	}
	if cfg.IdempotencyKeys == 0 {
		cfg.IdempotencyKeys = 1 << 20
	}
	for code, meter := range cfg.Meters {
		if meter.Decimals < 0 || meter.Decimals > decimalPlaces {
			panic("entitlementstest: BillingConfig.Meters[" + code + "].Decimals must be 0 to 9")
		}
	}
	return cfg
}

// Close ends hanging requests, closes all connections and waits for the server
// to be gone. It may be called twice.
func (b *Billing) Close() {
	b.closeOnce.Do(func() {
		close(b.closing)
		_ = b.server.Close()
		b.client.CloseIdleConnections()
	})
	b.wg.Wait()
}

// Client returns an HTTP client that reaches b, on loopback or in memory. Its
// connections are closed with b.
func (b *Billing) Client() *http.Client { return b.client }

// Now is the backend's clock.
func (b *Billing) Now() time.Time { return time.Now().Add(time.Duration(b.offset.Load())) }

// SetClockOffset sets the backend's clock ahead of the local one by d, or behind
// it when d is negative: Date headers, as_of, period ends and webhook times.
func (b *Billing) SetClockOffset(d time.Duration) { b.offset.Store(int64(d)) }

// Put creates a subscription or replaces its grants. Used in a metered grant is
// what was used in the period besides what the usage endpoints accept.
func (b *Billing) Put(subscription string, grants map[string]entitlements.Grant) {
	b.ledger.put(subscription, nil, grants)
}

// PutEntitlements is Put with a plan. AsOf, ServerTime and Version are ignored:
// the backend makes its own.
func (b *Billing) PutEntitlements(e *entitlements.Entitlements) {
	b.ledger.put(e.Customer, &e.Plan, e.Features)
}

// SetCustomer gives an existing subscription a customer_id of its own, which the
// endpoints that take a customer_id then know it by.
func (b *Billing) SetCustomer(subscription, customer string) {
	b.ledger.setCustomer(subscription, customer)
}

// Remove deletes a subscription: reads of it are 404, usage for it is refused.
// What it used stays countable.
func (b *Billing) Remove(subscription string) { b.ledger.remove(subscription) }

// AllowToken accepts one more bearer token, RevokeToken answers it with 401 and
// ForbidToken with 403.
func (b *Billing) AllowToken(token string) { b.tokens.put(token, tokenValid) }

// RevokeToken answers a token with 401 from now on, until AllowToken.
func (b *Billing) RevokeToken(token string) { b.tokens.put(token, tokenUnknown) }

// ForbidToken answers a token with 403 from now on, until AllowToken.
func (b *Billing) ForbidToken(token string) { b.tokens.put(token, tokenForbidden) }
