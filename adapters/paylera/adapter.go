package paylera

import (
	"fmt"
	"io"
	"net/http"

	"github.com/entitlements-go/entitlements"
)

// Adapter is a Client's door to Paylera: give it as both Config.Source and
// Config.Sink, and mount it as the [http.Handler] of the webhook endpoint.
//
// It keeps idle connections and a few bounded tables, and has no goroutines of
// its own. All methods are safe for concurrent use.
type Adapter struct {
	config    *Config
	transport *transport
	memory    *memory // nil without Config.Subscriptions: a key is its subscription
	keys      *keyring
	pins      *pins // nil like memory
	hooks     *webhooks
}

// All that a Client looks for.
var (
	_ entitlements.Source            = (*Adapter)(nil)
	_ entitlements.ConditionalSource = (*Adapter)(nil)
	_ entitlements.Lister            = (*Adapter)(nil)
	_ entitlements.Watcher           = (*Adapter)(nil)
	_ entitlements.Sink              = (*Adapter)(nil)
	_ entitlements.Limiter           = (*Adapter)(nil)
	_ http.Handler                   = (*Adapter)(nil)
)

// New makes an Adapter. It sends nothing. Its error names every field of the
// Config that is wrong.
func New(cfg Config) (*Adapter, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Adapter{
		config:    &cfg,
		transport: newTransport(cfg),
		keys:      newKeyring(cfg.bodyDedupes()),
		hooks:     newWebhooks(cfg.WebhookSecrets),
	}
	if cfg.Subscriptions != nil {
		a.memory = newMemory(cfg.Remember)
		a.pins = newPins()
	}
	return a, nil
}

// String names the API that is spoken to, without any secret.
func (a *Adapter) String() string {
	return "paylera.Adapter(" + a.config.Family.String() + " " + a.config.BaseURL + ")"
}

// Format writes String for every verb. It is a method of the value, since the
// verbs of a value printed by mistake would dig out the token as well.
func (a Adapter) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

// CloseIdleConnections closes the pooled connections that are not in use, for a
// program that is done with the Adapter. It can still be used afterwards.
func (a *Adapter) CloseIdleConnections() { a.transport.client.CloseIdleConnections() }

// bodyDedupes reports whether a usage record is recognised by an id in its
// body, whatever its Idempotency-Key.
func (c *Config) bodyDedupes() bool { return c.Family == Core || c.Track.ExternalIDField != "" }
