package latency

import (
	"fmt"
	"time"
)

// Setup says what is measured under which load. Its zero value is what the
// published numbers use.
type Setup struct {
	// Duration is how long each call is measured. Defaults to 10 s.
	Duration time.Duration
	// Slice is how long one is measured before it is the next one's turn, so that a
	// machine that drifts does so for all, and a burst of refreshes meets all.
	// Defaults to a hundredth of Duration.
	Slice time.Duration
	// Goroutines is how many call. Defaults to 2.
	Goroutines int
	// PerSecond is how often a second each of them calls. Defaults to 20 000.
	PerSecond int
	// Customers defaults to 10 000.
	Customers int
	// TTL decides how much is refreshed: every customer this often. Defaults to 5 s.
	TTL time.Duration
	// GarbageMB is what is allocated a second, in MB. Defaults to 50.
	GarbageMB int
	// LiveMB is the live heap that the collector has to go through. Defaults to 100.
	LiveMB int
}

func (s Setup) withDefaults() Setup {
	def := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	if s.Duration == 0 {
		s.Duration = 10 * time.Second
	}
	if s.Slice == 0 {
		s.Slice = s.Duration / 100
	}
	if s.TTL == 0 {
		s.TTL = 5 * time.Second
	}
	def(&s.Goroutines, 2)
	def(&s.PerSecond, 20_000)
	def(&s.Customers, 10_000)
	def(&s.GarbageMB, 50)
	def(&s.LiveMB, 100)
	return s
}

func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s %03d", thousands(n/1000), n%1000)
}
