package entitlementstest

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Route names an endpoint of a [Billing].
type Route string

const (
	// RouteAny stands for every route, where a method takes one.
	RouteAny Route = ""

	RouteEntitlements  Route = "GET /v1/subscriptions/{id}/entitlements"
	RouteSubscriptions Route = "GET /v1/subscriptions"
	RouteCheck         Route = "POST /v1/check"
	RouteTrack         Route = "POST /v1/track"
	RouteUsage         Route = "POST /v1/usage"
	RouteUsageBatch    Route = "POST /v1/usage/batch"

	// RouteUnknown is what requests to anything else are counted under.
	RouteUnknown Route = "unknown"
)

// routeOf matches a request. It does not use http.ServeMux: that answers a path
// with ".." in it by a redirect, and a subscription may be called so.
func routeOf(r *http.Request) (route Route, id string) {
	path := r.URL.EscapedPath()
	if rest, ok := strings.CutPrefix(path, "/v1/subscriptions/"); ok && r.Method == http.MethodGet {
		if escaped, ok := strings.CutSuffix(rest, "/entitlements"); ok && escaped != "" && !strings.Contains(escaped, "/") {
			if id, err := url.PathUnescape(escaped); err == nil {
				return RouteEntitlements, id
			}
		}
		return RouteUnknown, ""
	}
	switch route := Route(r.Method + " " + path); route {
	case RouteSubscriptions, RouteCheck, RouteTrack, RouteUsage, RouteUsageBatch:
		return route, ""
	}
	return RouteUnknown, ""
}

// usage reports whether a route takes usage events.
func (r Route) usage() bool {
	return r == RouteTrack || r == RouteUsage || r == RouteUsageBatch
}

// requestLog counts requests by route and answers by status.
type requestLog struct {
	mu       sync.Mutex // guards the fields below
	routes   map[Route]int
	statuses map[int]int
}

func (l *requestLog) request(route Route) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.routes == nil {
		l.routes, l.statuses = make(map[Route]int), make(map[int]int)
	}
	l.routes[route]++
}

func (l *requestLog) status(code int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.statuses[code]++
}

// Requests is how many requests arrived on a route, or on all for [RouteAny],
// however they ended. Go's HTTP client sends a request once more by itself when
// a reused connection breaks and the request is a GET or has an Idempotency-Key;
// such a repetition counts too.
func (b *Billing) Requests(route Route) int {
	b.requests.mu.Lock()
	defer b.requests.mu.Unlock()
	if route != RouteAny {
		return b.requests.routes[route]
	}
	n := 0
	for _, count := range b.requests.routes {
		n += count
	}
	return n
}

// Statuses is how many answers were given by status code. Requests that got no
// whole answer are not in it.
func (b *Billing) Statuses() map[int]int {
	b.requests.mu.Lock()
	defer b.requests.mu.Unlock()
	return maps.Clone(b.requests.statuses)
}
