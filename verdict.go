package entitlements

// meterRead is the state of a metered grant at a check: what is used and held in
// the local view, and the moments on the backend's clock at which the period and
// the grant end. The zero value is that of a plain grant.
type meterRead struct {
	used, held      int64
	resets, expires int64 // 0 = never
}

// judge makes d the verdict on one grant: whether n more units are allowed, when
// the meter reads as it does and the backend's clock shows now. It is the only
// place that compares usage with a limit, and it is pure: snapshot, meter, clock
// and policy come in as arguments. d must be the zero Decision.
func (d *Decision) judge(g *grant, r meterRead, now, n int64) {
	d.Kind, d.Text = g.kind, g.text
	switch g.kind {
	case KindNumeric:
		d.Limit = g.limit
	case KindMetered:
		d.Limit = g.quota()
		d.Used, d.Remaining = r.used, remaining(d.Limit, r.used, r.held)
		d.ResetsAt = fromNanos(r.resets)
	}
	switch {
	case !g.enabled:
		d.Reason = ReasonNotGranted
	case r.expires != 0 && now >= r.expires:
		d.Reason = ReasonExpired
	case g.kind != KindMetered || n <= d.Remaining || d.Limit == Unlimited:
		d.Reason, d.Allowed = ReasonGranted, true
	case g.soft:
		d.Reason, d.Allowed = ReasonOverage, true
	default:
		d.Reason = ReasonLimitReached
	}
}

// quota is what may be used in a period. Whoever asks what a limit is asks this.
func (g *grant) quota() int64 { return g.limit }

// remaining is between 0 and limit: corrections below zero mint nothing.
func remaining(limit, used, held int64) int64 {
	taken := saturate(max(0, used), held)
	if taken >= limit {
		return 0
	}
	return limit - taken
}
