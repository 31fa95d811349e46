package entitlements

// judge is the verdict on one grant: whether n more units are allowed, when used
// units are used in the local view and the backend's clock shows now. It is the
// only place that reads a limit, and it is pure: snapshot, meter, clock and
// policy come in as arguments. f is nil for a plain grant.
func judge(g *grant, f *figure, used, now, n int64) Decision {
	d := Decision{Kind: g.kind, Text: g.text}
	switch g.kind {
	case KindNumeric:
		d.Limit = g.limit
	case KindMetered:
		d.Limit, d.Used, d.Remaining = g.limit, used, remaining(g.limit, used)
		d.ResetsAt = fromNanos(f.resets)
	}
	switch {
	case !g.enabled:
		d.Reason = ReasonNotGranted
	case f != nil && f.expires != 0 && now >= f.expires:
		d.Reason = ReasonExpired
	case g.kind != KindMetered || n <= d.Remaining || g.limit == Unlimited:
		d.Reason, d.Allowed = ReasonGranted, true
	case g.soft:
		d.Reason, d.Allowed = ReasonOverage, true
	default:
		d.Reason = ReasonLimitReached
	}
	return d
}

// remaining is between 0 and limit: corrections below zero mint nothing.
func remaining(limit, used int64) int64 {
	if used >= limit {
		return 0
	}
	return max(0, limit-max(0, used))
}
