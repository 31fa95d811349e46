package entitlements_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/entitlements-go/entitlements"
)

func TestSmoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		total := map[string]int64{}
		src := Static(map[string]*Entitlements{"a": {Features: map[string]Grant{
			"x": {Enabled: true}, "m": {Kind: KindMetered, Enabled: true, Limit: 10, Used: 3},
		}}})
		c, err := New(Config{Source: src, Sink: SinkFunc(func(ctx context.Context, b Batch) error {
			mu.Lock()
			defer mu.Unlock()
			for _, u := range b.Usage {
				total[u.Feature] += u.Quantity
			}
			return nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(c.Decide("a", "x"))
		fmt.Println(c.Check(t.Context(), "a", "x"))
		fmt.Println(c.Check(t.Context(), "b", "x"))
		for range 3 {
			c.Track("a", "m", 2)
			fmt.Printf("%+v\n", c.Decide("a", "m"))
		}
		time.Sleep(5 * time.Second)
		fmt.Printf("%+v\n", c.Decide("a", "m"))
		fmt.Printf("%+v\n", c.Stats())
		time.Sleep(50 * time.Second)
		fmt.Printf("%+v\n", c.Decide("a", "m"))
		fmt.Printf("%+v\n", c.Stats())
		fmt.Println(c.Close(t.Context()), total)
		fmt.Printf("%+v\n", c.Decide("a", "m"))
		fmt.Printf("%+v\n", c.Stats().Usage)
	})
}
