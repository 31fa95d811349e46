package entitlementstest

import (
	"net/http"
	"slices"
	"sync"
)

// webhooks is the registered endpoint and what is pending for it.
type webhooks struct {
	sending chan struct{} // one token: who has it delivers
	client  *http.Client  // whoever has the token

	mu          sync.Mutex // guards the fields below
	url, secret string
	pending     []*webhookEvent
	taken       []*webhookEvent // the latest, for ResendWebhooks
	refusals    int             // 4xx answers in a row
	attempts    int
}

type webhookEvent struct {
	id, kind, subscription string
	body                   []byte
}

// mostTaken bounds what is kept for ResendWebhooks.
const mostTaken = 1024

// init does not take the billing API's own client: in memory that reaches nobody
// else, and a receiver is somebody else.
func (w *webhooks) init() {
	w.client, w.sending = http.DefaultClient, make(chan struct{}, 1)
}

// RegisterWebhook sets the URL that events are sent to and the secret that signs
// them, and forgets what was pending. An empty url unregisters.
func (b *Billing) RegisterWebhook(url, secret string) {
	w := &b.webhooks
	w.mu.Lock()
	defer w.mu.Unlock()
	w.url, w.secret, w.refusals = url, secret, 0
	w.pending, w.taken = nil, nil
}

// SetWebhookClient sets the HTTP client that events are sent with: one whose
// transport calls the receiver directly works without a network. Defaults to
// http.DefaultClient.
func (b *Billing) SetWebhookClient(client *http.Client) {
	b.webhooks.sending <- struct{}{} // not while one is on its way
	b.webhooks.client = client
	<-b.webhooks.sending
}

// PendingWebhooks is how many events no receiver has taken yet.
func (b *Billing) PendingWebhooks() int {
	b.webhooks.mu.Lock()
	defer b.webhooks.mu.Unlock()
	return len(b.webhooks.pending)
}

// WebhookAttempts is how many times an event was sent, repetitions included.
func (b *Billing) WebhookAttempts() int {
	b.webhooks.mu.Lock()
	defer b.webhooks.mu.Unlock()
	return b.webhooks.attempts
}

// enqueue makes an event pending, unless there is no endpoint.
func (w *webhooks) enqueue(event *webhookEvent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.url == "" {
		return false
	}
	w.pending = append(w.pending, event)
	return true
}

// first is the oldest pending event of a subscription, and where it goes.
func (w *webhooks) first(subscription string) (event *webhookEvent, url, secret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range w.pending {
		if event.subscription == subscription {
			return event, w.url, w.secret
		}
	}
	return nil, "", ""
}

func (w *webhooks) attempt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts++
}

// settle takes note of an attempt's outcome, and reports whether it was the one that
// switches the endpoint off.
func (w *webhooks) settle(event *webhookEvent, status int, err error) (disabled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.refusals = 0
		w.pending = slices.DeleteFunc(w.pending, func(e *webhookEvent) bool { return e == event })
		if w.taken = append(w.taken, event); len(w.taken) > mostTaken {
			w.taken = slices.Clone(w.taken[len(w.taken)-mostTaken:])
		}
		return false
	}
	if status/100 != 4 {
		w.refusals = 0
		return false
	}
	if w.refusals++; w.refusals < disableAfter {
		return false
	}
	w.url, w.pending = "", nil
	return true
}

// waiting lists the subscriptions that have pending events, oldest first.
func (w *webhooks) waiting() (subscriptions []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range w.pending {
		if !slices.Contains(subscriptions, event.subscription) {
			subscriptions = append(subscriptions, event.subscription)
		}
	}
	return subscriptions
}

func (w *webhooks) takenBefore() []*webhookEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.taken)
}

func (w *webhooks) endpoint() (url, secret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.url, w.secret
}
