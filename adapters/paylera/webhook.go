package paylera

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/entitlements-go/entitlements"
)

const (
	maxWebhookBody = 1 << 20

	// rememberedEvents bounds the ids of events that were handled. Deliveries are
	// repeated within minutes; handling one twice costs a reload, no more.
	rememberedEvents = 10_000
)

// webhooks is the receiving half of the Adapter.
type webhooks struct {
	secrets []string

	// mu guards everything below. Nothing is called while it is held.
	mu       sync.Mutex
	watchers []*watcher
	handled  *recent[string, struct{}]
}

// watcher is one running Watch.
type watcher struct {
	changed entitlements.Invalidator
	busy    sync.WaitGroup // handlers that are calling changed; added to under mu
}

func newWebhooks(secrets []string) *webhooks {
	return &webhooks{secrets: secrets, handled: newRecent[string, struct{}](rememberedEvents)}
}

// Watch passes on what the webhooks tell, until ctx ends. Webhooks that come
// while no Watch runs are answered 503, so that Paylera sends them again. After
// it has returned, changed is not called any more.
//
// Webhooks alone can't keep a cache right: Paylera switches an endpoint off
// that keeps failing, and drops what it still had for it. A Client's TTL stays
// the bound.
func (a *Adapter) Watch(ctx context.Context, changed entitlements.Invalidator) error {
	w := &watcher{changed: changed}
	h := a.hooks
	h.mu.Lock()
	h.watchers = append(h.watchers, w)
	h.mu.Unlock()

	<-ctx.Done()

	// From here on no handler takes w on; those that have it are waited for.
	h.mu.Lock()
	h.watchers = slices.DeleteFunc(h.watchers, func(other *watcher) bool { return other == w })
	h.mu.Unlock()
	w.busy.Wait()
	return ctx.Err()
}

// ServeHTTP receives Paylera's webhooks. It answers
//
//   - 200: handled, handled before, or about nothing that is cached here
//   - 400: a good signature over something that is no event
//   - 401: no good signature by any of Config.WebhookSecrets, or its time is more
//     than 300 s from ours
//   - 405: not a POST
//   - 413: over 1 MiB
//   - 500: Config.Customer failed; Paylera sends it again
//   - 503: no secret is set up, or no Client watches yet; likewise
//
// The body must reach it as it was sent: a middleware that parses and rewrites
// it breaks the signature. An event is remembered only once it was handled.
//
// Source: docs.paylera.com, /guides/webhooks. The 503 is ours (assumption: like
// any 5xx it is sent again).
func (a *Adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "use POST", http.StatusMethodNotAllowed)
		return
	}
	if len(a.hooks.secrets) == 0 {
		http.Error(w, "webhooks are not set up", http.StatusServiceUnavailable)
		return
	}
	// All of it before anything else: the signature is over the whole body.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWebhookBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "body too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "body incomplete", http.StatusBadRequest)
		return
	}
	if err := a.hooks.authenticate(r.Header, body); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	event, err := decodeEvent(body)
	if err != nil {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	switch err := a.handle(r.Context(), event); {
	case errors.Is(err, errNobodyWatches):
		http.Error(w, "not ready", http.StatusServiceUnavailable)
	case err != nil:
		// The cause is the program's own business, not Paylera's.
		http.Error(w, "handling failed", http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusOK)
	}
}

// authenticate checks the signature of a body.
func (h *webhooks) authenticate(header http.Header, body []byte) error {
	values := header.Values("Paylera-Signature")
	if len(values) > 1 {
		return errSignatureMalformed
	}
	s, err := parseSignature(header.Get("Paylera-Signature"))
	if err != nil {
		return err
	}
	return s.verify(h.secrets, body, time.Now())
}

var errNobodyWatches = errors.New("paylera: nobody watches")

// handle invalidates what an event is about. Two deliveries of one event at the
// same time are both handled; the second one is cheap and waiting would not be.
func (a *Adapter) handle(ctx context.Context, event webhookEvent) error {
	watched, handled := a.hooks.state(event.id)
	switch {
	case !watched:
		return errNobodyWatches
	case handled:
		return nil
	}
	var customers []string
	if event.changesEntitlements() {
		var err error
		if customers, err = a.affected(ctx, event.subscriptions); err != nil {
			return err
		}
	}
	if len(customers) > 0 && !a.hooks.invalidate(customers) {
		return errNobodyWatches // the last Watch ended during the look-up
	}
	a.hooks.remember(event.id)
	return nil
}

func (h *webhooks) state(id string) (watched, handled bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, handled = h.handled.get(id)
	return len(h.watchers) > 0, handled
}

// invalidate tells every watcher, and reports whether there was one. A Watch
// that ends meanwhile waits until it was told.
func (h *webhooks) invalidate(customers []string) bool {
	h.mu.Lock()
	watchers := slices.Clone(h.watchers)
	for _, w := range watchers {
		w.busy.Add(1)
	}
	h.mu.Unlock()
	// Before anything is called that may panic.
	defer func() {
		for _, w := range watchers {
			w.busy.Done()
		}
	}()
	for _, w := range watchers {
		w.changed.Invalidate(customers...)
	}
	return len(watchers) > 0
}

func (h *webhooks) remember(id string) {
	if id == "" {
		return // an event without an id can't be told from the next one
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handled.put(id, struct{}{})
}

// affected names the customers that have one of the subscriptions. One that
// nobody here is known to have is not cached either.
func (a *Adapter) affected(ctx context.Context, subscriptions []string) ([]string, error) {
	var customers []string
	for _, subscription := range subscriptions {
		customer, err := a.customerOf(ctx, subscription)
		if err != nil {
			return nil, err
		}
		if customer != "" {
			customers = append(customers, customer)
		}
		if a.memory != nil {
			customers = append(customers, a.memory.holdersOf(subscription)...)
		}
	}
	slices.Sort(customers)
	return slices.Compact(customers), nil
}
