package entitlements

// Shadow mode lets features through and counts what would have been denied: how
// gates are switched on safely, and how they are switched off in an emergency.

// shadowed is the set of features in shadow mode. Immutable.
type shadowed struct {
	all      bool
	features map[string]bool
}

// everyFeature in [Config.Shadow] stands for all of them.
const everyFeature = "*"

// newShadowed is nil for no features, so that a check has nothing to look at.
func newShadowed(features []string) *shadowed {
	if len(features) == 0 {
		return nil
	}
	s := &shadowed{features: make(map[string]bool, len(features))}
	for _, f := range features {
		s.features[f] = true
	}
	s.all = s.features[everyFeature]
	return s
}

// lift allows what is denied of a feature in shadow mode. The reason stays.
func (c *Client) lift(d *Decision, feature string) {
	if d.Allowed {
		return
	}
	// A zero handle has no feature, and denies whatever is in shadow mode.
	if s := c.shadow.Load(); s != nil && (s.all || s.features[feature]) && validKey(feature) {
		d.Allowed, d.Shadowed = true, true
	}
}

// shadows reports whether a denial of some feature might be lifted.
func (c *Client) shadows() bool { return c.shadow.Load() != nil }
