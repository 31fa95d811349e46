package main

import "slices"

// Result is what a search found, as far as it came.
type Result struct {
	Tables  []Table
	Best    Candidate
	Promise Measured // of a run of Best; of the best row until then
	Final   bool     // Promise is of such a run
	Unmet   []violation
	Advice  []string
}

// Table is what was tried for one setting.
type Table struct {
	Setting setting
	Rows    []Row
}

// Row is one candidate.
type Row struct {
	Candidate Candidate
	Measured  Measured
	Verdict   string
	Chosen    bool
}

// A measurer runs a candidate. left is how many runs are to come at most, this
// one among them.
type measurer func(what string, left int, c Candidate) (Measured, error)

// search tries one setting after the other, each with those before it as they
// came out best, and then runs what it found once more. It runs nothing itself:
// measure does, and what it was asked before it is not asked again. When measure
// fails the Result is as far as it came.
func search(w Workload, quick bool, measure measurer) (Result, error) {
	s := &searcher{w: w, quick: quick, measure: measure, known: make(map[Candidate]Measured)}
	s.Best = defaults()
	err := s.run()
	return s.Result, err
}

type searcher struct {
	Result
	w       Workload
	quick   bool
	measure measurer
	known   map[Candidate]Measured
}

func (s *searcher) run() error {
	todo := settings()
	base, err := s.one("defaults", todo, s.Best)
	if err != nil {
		return err
	}
	s.promise(s.w, base)
	if err := s.frugal(todo); err != nil {
		return err
	}
	for i := range todo {
		if err := s.try(todo[i], todo[i:]); err != nil {
			return err
		}
	}
	if len(s.Unmet) == 0 {
		for _, of := range s.hasty() {
			if err := s.try(of, nil); err != nil {
				return err
			}
		}
	}
	delete(s.known, s.Best) // once more, with the time that is left
	final, err := s.one("recommendation", nil, s.Best)
	if err != nil {
		return err
	}
	s.promise(s.w, final)
	s.Final = true
	return nil
}

// frugal begins with the settings that ask least for the freshness that is wanted,
// where the defaults do not hold the bounds and those come nearer. Neither TTL nor
// DenyTTL alone may be enough, and one at a time is all that is tried afterwards.
func (s *searcher) frugal(todo []setting) error {
	if len(s.Unmet) == 0 {
		return nil
	}
	c := s.Best
	c.TTL, c.DenyTTL = s.w.Freshness, s.w.Freshness
	m, err := s.one("fewest requests", todo, c)
	if err != nil {
		return err
	}
	if s.w.excess(m) < s.w.excess(s.Promise) {
		s.Best = c
		s.promise(s.w, m)
	}
	return nil
}

// try measures what there is to try of a setting, and takes the best over. When
// it is interrupted the best is of what is known by then.
func (s *searcher) try(of setting, rest []setting) error {
	t := Table{Setting: of}
	var err error
	for _, c := range of.tried(s.w, s.Best, s.quick) {
		m, known := s.known[c]
		if !known && err == nil {
			m, err = s.one(of.name+" "+of.text(c), rest, c)
			known = err == nil
		}
		if known {
			t.Rows = append(t.Rows, Row{Candidate: c, Measured: m})
		}
	}
	s.add(s.w, t)
	return err
}

// one runs a candidate that is not known yet.
func (s *searcher) one(what string, rest []setting, c Candidate) (Measured, error) {
	left := 1 // the recommendation
	for _, of := range append(s.hasty(), rest...) {
		left += len(of.tried(s.w, s.Best, s.quick)) - 1
	}
	m, err := s.measure(what, left, c)
	if err == nil {
		s.known[c] = m
	}
	return m, err
}

// hasty is the settings for which nothing held all bounds, so that what was
// chosen was the least bad. When something holds them by the end they are tried
// again, with the others as they are then, unless it must be quick.
func (s *searcher) hasty() []setting {
	if s.quick {
		return nil
	}
	var out []setting
	for _, t := range s.Tables {
		for _, row := range t.Rows {
			if row.Chosen && len(s.w.violations(row.Measured)) > 0 {
				out = append(out, t.Setting)
			}
		}
	}
	return out
}

// add judges a table and takes its best row over.
func (r *Result) add(w Workload, t Table) {
	if len(t.Rows) == 0 {
		return
	}
	best := choose(w, t)
	for i := range t.Rows {
		t.Rows[i].Chosen = i == best
		t.Rows[i].Verdict = verdict(w, t, i, best)
	}
	if i := slices.IndexFunc(r.Tables, func(o Table) bool { return o.Setting.name == t.Setting.name }); i >= 0 {
		r.Tables[i] = t
	} else {
		r.Tables = append(r.Tables, t)
	}
	r.Best = t.Rows[best].Candidate
	r.promise(w, t.Rows[best].Measured)
}

func (r *Result) promise(w Workload, m Measured) {
	r.Promise, r.Unmet, r.Advice = m, w.violations(m), w.advice(r.Best, m)
}
