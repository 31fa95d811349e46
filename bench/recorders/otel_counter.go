package recorders

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	metricwire "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/entitlements-go/entitlements/bench/workload"
)

// counter adds to a counter with the customer and the feature as attributes. Past
// the default limit of 2000 series all calls are added to one that has neither.
type counter struct {
	provider *sdkmetric.MeterProvider
	uses     metric.Int64Counter
}

func newCounter(s *Server, _ *workload.Workload) (Recorder, error) {
	exporter, err := otlpmetrichttp.New(context.Background(), otlpmetrichttp.WithEndpointURL(s.URL+"/v1/metrics"))
	if err != nil {
		return nil, err
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
	uses, err := provider.Meter("usage").Int64Counter("usage")
	if err != nil {
		return nil, err
	}
	return &counter{provider, uses}, nil
}

func (r *counter) Record(customer, feature string) {
	r.uses.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("customer", customer), attribute.String("feature", feature),
	))
}

func (r *counter) Flush(ctx context.Context) { _ = r.provider.ForceFlush(ctx) }

func (r *counter) Close(ctx context.Context) (told int64) {
	_ = r.provider.Shutdown(ctx)
	return 0
}

// countPoints counts sums. Each export repeats every series with its total so far.
func countPoints(t *tally, _ request, body []byte) error {
	var data metricwire.MetricsData // the same bytes as the request that exporters send
	if err := proto.Unmarshal(body, &data); err != nil {
		return err
	}
	for _, resource := range data.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				sum := m.GetSum()
				if sum.GetAggregationTemporality() != metricwire.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
					return fmt.Errorf("metric %q is no cumulative sum", m.Name)
				}
				for _, point := range sum.DataPoints {
					countPoint(t, point)
				}
			}
		}
	}
	return nil
}

func countPoint(t *tally, point *metricwire.NumberDataPoint) {
	var series strings.Builder // the SDK sends attributes sorted
	overflow := false
	for _, a := range point.Attributes {
		overflow = overflow || a.Key == "otel.metric.overflow"
		series.WriteString(a.Key + "\x00" + a.Value.GetStringValue() + "\x00")
	}
	more := t.total(series.String(), point.GetAsInt())
	if overflow {
		t.overflowed += more
	}
}
