package main

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A setting is one field of a Candidate, as a number: durations are nanoseconds.
type setting struct {
	name   string
	about  string // what there is to gain and to lose
	of     func(*Candidate) number
	values func(w Workload, best Candidate) []float64 // beside the default, the most telling first
}

// number is access to a field.
type number struct {
	get    func() float64
	set    func(float64)
	text   func(float64) string
	source func(float64) string // in Go
}

func duration(d *time.Duration) number {
	return number{
		get: func() float64 { return float64(*d) }, set: func(v float64) { *d = time.Duration(v) },
		text: func(v float64) string { return short(time.Duration(v)) }, source: func(v float64) string { return goDuration(time.Duration(v)) },
	}
}

func count(n *int) number {
	text := func(v float64) string { return strconv.Itoa(int(v)) }
	return number{get: func() float64 { return float64(*n) }, set: func(v float64) { *n = int(v) }, text: text, source: text}
}

func rate(r *float64) number {
	text := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	return number{
		get: func() float64 { return *r }, set: func(v float64) { *r = v }, source: text,
		text: func(v float64) string {
			if v == 0 {
				return "no limit"
			}
			return text(v)
		},
	}
}

// settings are searched in this order: what is kept and for how long decides the
// demand, which the bounds of the calls then shape.
func settings() []setting {
	return []setting{
		{
			"MaxCustomers", "customers who do not fit are answered by policy, and loaded again and again",
			func(c *Candidate) number { return count(&c.MaxCustomers) },
			func(w Workload, _ Candidate) []float64 {
				n := float64(w.Customers) // with a quarter more there is room to grow
				return []float64{roundUp(n * 1.25), roundUp(n / 2), roundUp(n / 4)}
			},
		},
		{
			"TTL", "longer is fewer requests, and older answers",
			func(c *Candidate) number { return duration(&c.TTL) },
			func(w Workload, _ Candidate) []float64 {
				f := float64(w.Freshness)
				return atLeast(float64(time.Second), f, f/2, f*3/4, f/4)
			},
		},
		{
			"DenyTTL", "longer is fewer requests; a customer who has just paid waits for it when no webhook comes",
			func(c *Candidate) number { return duration(&c.DenyTTL) },
			func(_ Workload, best Candidate) []float64 {
				ttl := float64(best.TTL)
				return atLeast(float64(time.Second), ttl, ttl/3, ttl*2/3)
			},
		},
		{
			"IdleAfter", "shorter saves requests for customers who come rarely, who are then answered from older snapshots",
			func(c *Candidate) number { return duration(&c.IdleAfter) },
			func(_ Workload, best Candidate) []float64 {
				ttl := float64(best.TTL)
				return atLeast(float64(time.Second), ttl/2, ttl, 2*ttl)
			},
		},
		{
			"FetchConcurrency", "fewer calls at once are smaller bursts at the billing API, and a slower start",
			func(c *Candidate) number { return count(&c.FetchConcurrency) },
			func(w Workload, _ Candidate) []float64 {
				// Refreshes get half of the calls.
				busy := math.Ceil(float64(w.RateLimit) * w.Latency.Seconds())
				return atLeast(2, 2*busy, 4*busy, 8*busy)
			},
		},
		{
			"FetchRate", "a limit of one's own keeps clear of the billing API's, which all processes share",
			func(c *Candidate) number { return rate(&c.FetchRate) },
			func(w Workload, _ Candidate) []float64 {
				limit := float64(w.RateLimit)
				return atLeast(0.1, round(limit*0.9), round(limit*0.75), limit, round(limit*0.5))
			},
		},
		{
			"FlushInterval", "longer folds more usage into fewer requests, and leaves more of it at risk",
			func(c *Candidate) number { return duration(&c.FlushInterval) },
			func(w Workload, _ Candidate) []float64 {
				if w.Usage == 0 {
					return nil
				}
				most := min(float64(20*time.Second), float64(w.AtRisk)/w.Usage*1e9)
				return atLeast(float64(50*time.Millisecond), coarse(most*0.9), coarse(most/2), coarse(most/4))
			},
		},
		{
			"FlushSize", "smaller batches are more requests, each sooner done",
			func(c *Candidate) number { return count(&c.FlushSize) },
			func(w Workload, _ Candidate) []float64 {
				if w.Usage == 0 {
					return nil
				}
				if w.Family == "sdk" {
					return []float64{100, 40} // of at most 200 that the adapter takes
				}
				return []float64{500, 200}
			},
		},
	}
}

// tried are the candidates for a setting, with the others as they are best so
// far: the default, what is best so far, and what the workload suggests.
func (s setting) tried(w Workload, best Candidate, quick bool) []Candidate {
	base := defaults()
	known := []float64{s.of(&base).get(), s.of(&best).get()}
	other := slices.DeleteFunc(s.values(w, best), func(v float64) bool { return slices.Contains(known, v) })
	if quick {
		other = other[:min(1, len(other))]
	}
	values := append(known, other...)
	var out []Candidate
	for _, v := range values {
		c := best
		s.of(&c).set(v)
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Candidate) int { return cmp.Compare(s.rank(a), s.rank(b)) })
	return out
}

// rank orders values: a limit of 0 is none.
func (s setting) rank(c Candidate) float64 {
	if v := s.value(c); v != 0 {
		return v
	}
	return math.Inf(1)
}

func (s setting) value(c Candidate) float64  { return s.of(&c).get() }
func (s setting) text(c Candidate) string    { return s.of(&c).text(s.value(c)) }
func (s setting) source(c Candidate) string  { return s.of(&c).source(s.value(c)) }
func (s setting) isDefault(c Candidate) bool { return s.value(c) == s.value(defaults()) }

// atLeast leaves out what is below a bound.
func atLeast(least float64, values ...float64) []float64 {
	return slices.DeleteFunc(values, func(v float64) bool { return v < least })
}

// round keeps two digits, so that nobody reads more into a number than there is.
func round(v float64) float64 { return toDigits(v, math.Round) }

func roundUp(v float64) float64 { return toDigits(v, math.Ceil) }

func toDigits(v float64, to func(float64) float64) float64 {
	if v <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(v))-1)
	if unit < 1 {
		unit = math.Min(1, math.Max(unit, 0.1))
	}
	return to(v/unit) * unit
}

// coarse is a duration of two digits.
func coarse(ns float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(max(1, ns)))-1)
	return math.Floor(ns/unit) * unit
}

// short is a duration without the zeros of its String.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
