package main

import (
	"fmt"
	"time"
)

// A violation is a bound of the workload that a run did not hold.
type violation struct {
	text string
	over float64 // in parts of the bound
}

// violations are what m does not hold, in the order in which they are told.
func (w Workload) violations(m Measured) []violation {
	var out []violation
	if w.refused(m) {
		out = append(out, violation{
			fmt.Sprintf("%s requests/s refused or held back: the limit is %d", figure(m.Refused), w.RateLimit),
			m.Refused / float64(w.RateLimit),
		})
	}
	if m.P99 > w.Freshness {
		out = append(out, violation{
			fmt.Sprintf("age p99 is %s: %s more than %s", short(m.P99), short(m.P99-w.Freshness), short(w.Freshness)),
			float64(m.P99)/float64(w.Freshness) - 1,
		})
	}
	if m.fallsBehind() {
		out = append(out, violation{
			fmt.Sprintf("refreshes fall behind: %s later in %s", short(m.Later.Round(resolution)), short(m.Window)),
			float64(m.Later) / float64(m.Window),
		})
	}
	if Size(m.Memory) > w.Memory {
		out = append(out, violation{
			fmt.Sprintf("memory is %v: %v more than %v", Size(m.Memory), Size(m.Memory)-w.Memory, w.Memory),
			float64(m.Memory)/float64(w.Memory) - 1,
		})
	}
	if m.AtRisk > w.AtRisk {
		out = append(out, violation{
			fmt.Sprintf("%d usage events at risk: %d more than %d", m.AtRisk, m.AtRisk-w.AtRisk, w.AtRisk),
			float64(m.AtRisk)/float64(w.AtRisk) - 1,
		})
	}
	return out
}

// refused reports whether more was refused than chance explains. Requests that are
// well below the limit on average pass it in one second out of some, and what is
// held back until that second is over counts too: one such burst in a window, or
// one request in a hundred, makes no answer older.
func (w Workload) refused(m Measured) bool {
	return m.Refused > max(m.Reads/100, w.burst()/max(1, m.Window.Seconds()))
}

// burst is more than is refused when requests pass the limit once by chance: a
// sixth of the limit was the most that was seen.
func (w Workload) burst() float64 { return float64(w.RateLimit) / 4 }

// fallsBehind reports whether refreshes were later and later: then the ages of
// one window say nothing about the next.
func (m Measured) fallsBehind() bool { return m.Later > max(time.Second, m.Window/10) }

// excess is by how much bounds are passed, all together.
func (w Workload) excess(m Measured) (sum float64) {
	for _, v := range w.violations(m) {
		sum += v.over
	}
	return sum
}

// advice says what it would take to hold the bounds that m does not, for the
// settings c.
func (w Workload) advice(c Candidate, m Measured) []string {
	var out []string
	if w.refused(m) || m.P99 > w.Freshness || m.fallsBehind() {
		out = append(out, w.upstreamAdvice(c, m))
	}
	if Size(m.Memory) > w.Memory {
		held := min(c.MaxCustomers, w.Customers)
		out = append(out, fmt.Sprintf("%d customers take %v, %d bytes each: a memory of %v, or fewer customers a process",
			held, Size(m.Memory), int(m.Memory)/held, Size(m.Memory)))
	}
	if m.AtRisk > w.AtRisk {
		out = append(out, fmt.Sprintf("%s events/s wait for FlushInterval %s and latency %s: an at-risk of %d, or SpoolDir, which keeps them on disk",
			figure(w.Usage), short(c.FlushInterval), short(w.Latency), m.AtRisk))
	}
	return out
}

// upstreamAdvice is arithmetic: the Paylera API answers for one customer a
// request, and nothing is older than the time between two of its requests.
func (w Workload) upstreamAdvice(c Candidate, m Measured) string {
	kept := min(c.MaxCustomers, w.Customers)
	need := float64(kept) / w.Freshness.Seconds()
	limit := float64(w.RateLimit)
	if need > limit {
		fresh := time.Duration(float64(kept)/limit*float64(time.Second)).Round(time.Second) + time.Second
		return fmt.Sprintf("%d customers at TTL %s need %s requests/s, since each is one; the limit is %d: "+
			"a freshness of %s or more, a limit above %s, or a BatchSource, which needs %s for 100 customers at a time",
			kept, short(w.Freshness), figure(need), w.RateLimit, short(fresh), figure(need), figure(need/100))
	}
	return fmt.Sprintf("%d customers at TTL %s need %s requests/s of %d; what else is asked for, %s requests/s in all, is denials that look again "+
		"after DenyTTL %s and customers who are not cached: a limit of %s, or a longer freshness",
		kept, short(c.TTL), figure(float64(kept)/c.TTL.Seconds()), w.RateLimit, figure(m.Reads), short(c.DenyTTL), figure(m.Reads+m.Refused))
}

// figure is a number of three digits.
func figure(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
