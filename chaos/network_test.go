package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// weather is how the network is for a while.
type weather struct {
	name   string
	toxics []toxic
	down   bool // connections are refused
}

// toxic is one thing wrong with a connection, as toxiproxy reads it.
type toxic struct {
	Type       string           `json:"type"`
	Stream     string           `json:"stream"` // upstream carries requests, downstream answers
	Toxicity   float64          `json:"toxicity"`
	Attributes map[string]int64 `json:"attributes"`
}

var fair = weather{name: "fair"}

// halfOpen lets connections be made and nothing come through.
var halfOpen = weather{name: "half-open", toxics: []toxic{
	{"timeout", "upstream", 1, map[string]int64{"timeout": 0}},
	{"timeout", "downstream", 1, map[string]int64{"timeout": 0}},
}}

// forecast is every kind of weather once, in random order.
func forecast(rng *rand.Rand) []weather {
	// kind is a toxic of one direction, or of one drawn at random; now and then
	// only half of the connections have it.
	kind := func(name, stream string, attributes map[string]int64) weather {
		if stream == "" {
			stream = []string{"upstream", "downstream"}[rng.IntN(2)]
		}
		return weather{name: name, toxics: []toxic{{name, stream, []float64{0.5, 1, 1}[rng.IntN(3)], attributes}}}
	}
	ms := func(most int64) int64 { return rng.Int64N(most + 1) }
	all := []weather{
		fair,
		halfOpen,
		{name: "down", down: true},
		kind("latency", "", map[string]int64{"latency": 20 + ms(300)}),
		kind("latency", "", map[string]int64{"latency": 60, "jitter": 20 + ms(40)}),
		kind("reset_peer", "", map[string]int64{"timeout": ms(50)}),
		kind("timeout", "upstream", map[string]int64{"timeout": ms(1) * 50}),   // requests that get lost
		kind("timeout", "downstream", map[string]int64{"timeout": ms(1) * 50}), // answers that do
		kind("limit_data", "upstream", map[string]int64{"bytes": 1 + ms(900)}),
		kind("limit_data", "downstream", map[string]int64{"bytes": 1 + ms(300)}),
		kind("bandwidth", "", map[string]int64{"rate": 1}),
		kind("slow_close", "", map[string]int64{"delay": 50 + ms(500)}),
		kind("slicer", "", map[string]int64{"average_size": 8, "size_variation": 4, "delay": 500}),
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// network is the way to billing. Each weather is a proxy of its own, whose toxics
// are there before it takes connections: who adds one to a connection of toxiproxy
// 2.5, or takes one away, holds the lock that a connection needs to end, and waits
// for ever for one that breaks at that moment.
type network struct {
	t      testing.TB
	server *toxiproxy.ApiServer
	to     string

	mu  sync.Mutex       // guards the fields below
	now *toxiproxy.Proxy // takes new connections; nil = they are refused
	old *toxiproxy.Proxy // the one before, while its connections go on
}

// newNetwork is a network in fair weather, to the API at a base URL.
func newNetwork(t testing.TB, url string) *network {
	quiet := zerolog.Nop()
	n := &network{
		t: t, to: strings.TrimPrefix(url, "http://"),
		server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), quiet),
	}
	n.change(fair, true)
	t.Cleanup(func() { n.change(weather{down: true}, true) })
	return n
}

// change lets another weather begin. With cut all connections break at once; else
// they go on in the old weather until the next change.
func (n *network) change(w weather, cut bool) {
	var next *toxiproxy.Proxy
	if !w.down {
		next = toxiproxy.NewProxy(n.server, w.name, "127.0.0.1:0", n.to)
		for _, tox := range w.toxics {
			description, err := json.Marshal(tox)
			require.NoError(n.t, err)
			_, err = next.Toxics.AddToxicJson(bytes.NewReader(description))
			require.NoError(n.t, err)
		}
		require.NoError(n.t, next.Start())
	}
	n.mu.Lock()
	over := []*toxiproxy.Proxy{n.old}
	n.old, n.now = n.now, next
	if cut {
		over = append(over, n.old)
		n.old = nil
	}
	n.mu.Unlock()
	for _, p := range over {
		if p != nil {
			p.Stop()
		}
	}
}

// dial connects through the proxy of the moment, whatever the address.
func (n *network) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	address := "127.0.0.1:1" // nobody listens there, and no test gets that port
	n.mu.Lock()
	if n.now != nil {
		address = n.now.Listen
	}
	n.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// storm goes through a number of forecasts.
func (n *network) storm(rng *rand.Rand, laps int) {
	for range laps {
		for _, w := range forecast(rng) {
			n.change(w, rng.IntN(2) == 0)
			time.Sleep(time.Duration(150+rng.IntN(350)) * time.Millisecond)
		}
	}
}
