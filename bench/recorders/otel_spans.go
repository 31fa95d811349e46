package recorders

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracewire "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// spans ends a span per call, through a BatchSpanProcessor: a queue of 2048 that
// drops when it is full. How many it dropped no call tells.
type spans struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

func newSpans(s *Server, _ *workload.Workload) (Recorder, error) {
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(s.URL+"/v1/traces"))
	if err != nil {
		return nil, err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	return &spans{provider, provider.Tracer("usage")}, nil
}

func (r *spans) Record(customer, feature string) {
	_, span := r.tracer.Start(context.Background(), "usage", trace.WithAttributes(
		attribute.String("customer", customer), attribute.String("feature", feature),
	))
	span.End()
}

func (r *spans) Flush(ctx context.Context) { _ = r.provider.ForceFlush(ctx) }

func (r *spans) Close(ctx context.Context) (told int64) {
	_ = r.provider.Shutdown(ctx)
	return 0
}

func countSpans(t *tally, _ request, body []byte) error {
	var data tracewire.TracesData // the same bytes as the request that exporters send
	if err := proto.Unmarshal(body, &data); err != nil {
		return err
	}
	for _, resource := range data.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				t.add(string(span.TraceId)+string(span.SpanId), 1)
			}
		}
	}
	return nil
}
