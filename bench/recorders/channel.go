package recorders

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/entitlements-go/entitlements/bench/workload"
)

const (
	channelPath   = "/usage"
	channelBuffer = 10_000
	channelBatch  = 1000
	channelLinger = time.Second
)

// channel is what teams write first: a buffered channel that drops when it is
// full, and a goroutine that posts what is in it. A post that fails is dropped.
type channel struct {
	url     string
	client  http.Client
	queue   chan use
	flush   chan chan struct{}
	quit    chan struct{}
	done    chan struct{}
	dropped atomic.Int64

	posts context.Context // of all requests
	stop  context.CancelFunc
}

type use struct {
	Customer string `json:"customer"`
	Feature  string `json:"feature"`
}

func newChannel(s *Server, _ *workload.Workload) (Recorder, error) {
	c := &channel{
		url:    s.URL + channelPath,
		client: http.Client{Timeout: 10 * time.Second, Transport: http.DefaultTransport.(*http.Transport).Clone()},
		queue:  make(chan use, channelBuffer),
		flush:  make(chan chan struct{}),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	c.posts, c.stop = context.WithCancel(context.Background())
	go c.send() // owned by the channel, ends with Close
	return c, nil
}

func (c *channel) Record(customer, feature string) {
	select {
	case c.queue <- use{customer, feature}:
	default:
		c.dropped.Add(1)
	}
}

func (c *channel) Flush(ctx context.Context) {
	sent := make(chan struct{})
	select {
	case c.flush <- sent:
	case <-ctx.Done():
		return
	}
	select {
	case <-sent:
	case <-ctx.Done():
	}
}

// Close drops what is not sent when ctx is done.
func (c *channel) Close(ctx context.Context) (told int64) {
	defer context.AfterFunc(ctx, c.stop)()
	close(c.quit)
	<-c.done
	c.stop()
	c.client.CloseIdleConnections()
	return c.dropped.Load()
}

func (c *channel) send() {
	defer close(c.done)
	tick := time.NewTicker(channelLinger)
	defer tick.Stop()
	batch := make([]use, 0, channelBatch)
	for {
		select {
		case u := <-c.queue:
			if batch = append(batch, u); len(batch) == channelBatch {
				batch = c.post(batch)
			}
		case <-tick.C:
			batch = c.post(batch)
		case sent := <-c.flush:
			batch = c.drain(batch)
			close(sent)
		case <-c.quit:
			c.drain(batch)
			return
		}
	}
}

// drain posts the batch and all that is in the queue.
func (c *channel) drain(batch []use) []use {
	for {
		select {
		case u := <-c.queue:
			if batch = append(batch, u); len(batch) == channelBatch {
				batch = c.post(batch)
			}
		default:
			return c.post(batch)
		}
	}
}

// post returns the batch, emptied.
func (c *channel) post(batch []use) []use {
	if len(batch) > 0 && c.try(batch) != nil {
		c.dropped.Add(int64(len(batch)))
	}
	return batch[:0]
}

func (c *channel) try(batch []use) error {
	body, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(c.posts, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("recorders: post usage: answered %s", res.Status)
	}
	return nil
}

func countChannel(t *tally, _ request, body []byte) error {
	var batch []use
	if err := json.Unmarshal(body, &batch); err != nil {
		return err
	}
	t.add("", int64(len(batch)))
	return nil
}
