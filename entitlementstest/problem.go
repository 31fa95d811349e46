package entitlementstest

import (
	"encoding/json"
	"errors"
	"net/http"
)

// problem is an error of the API, which each family tells in its own way.
type problem struct {
	status    int
	sdk, core string // the discriminators
	title     string
	detail    string
	errors    []fieldError
}

// because adds what is wrong with this one request.
func (p problem) because(detail string) problem {
	p.detail = detail
	return p
}

// problemUnauthenticated is for a token that nobody knows, of the wrong
// environment included.
func problemUnauthenticated() problem {
	return problem{status: http.StatusUnauthorized, sdk: "paylera.authentication_failed", core: "authentication.failed", title: "The token is missing or not valid."}
}

// problemForbidden is for a token that is known and may not do this.
func problemForbidden() problem {
	return problem{status: http.StatusForbidden, sdk: "paylera.authorization_failed", core: "authorization.denied", title: "The token may not do this."}
}

// problemNotFound is for a subscription, and for a route. (Assumption: the pages
// do not tell them apart.)
func problemNotFound() problem {
	return problem{status: http.StatusNotFound, sdk: "paylera.not_found", core: "resource.not_found", title: "There is no such resource."}
}

// problemMalformed is for a body that is no JSON of the right form, against
// problemInvalid for one that is and says something wrong.
func problemMalformed() problem {
	return problem{status: http.StatusBadRequest, sdk: "paylera.malformed_request", core: "request.malformed", title: "The request can't be read."}
}

// problemRateLimited comes with a Retry-After header.
func problemRateLimited() problem {
	return problem{status: http.StatusTooManyRequests, sdk: "paylera.rate_limit_exceeded", core: "rate_limit.exceeded", title: "Too many requests."}
}

// problemKeyRunning says nothing about how the first request will end.
func problemKeyRunning() problem {
	return problem{status: http.StatusConflict, sdk: "paylera.idempotency_in_progress", core: "idempotency.in_progress", title: "A request with this Idempotency-Key is still running."}
}

// problemKeyReused is where the families differ most: 409 or 422.
func problemKeyReused(f family) problem {
	p := problem{status: http.StatusConflict, sdk: "paylera.idempotency_conflict", core: "idempotency.body_mismatch", title: "This Idempotency-Key was used with another body."}
	if f == familyCore {
		p.status = http.StatusUnprocessableEntity
	}
	return p
}

// problemInvalid tells what is wrong with a request, but not with which event of
// a batch: the API has no errors per event. (Assumption: 422; the pages name no
// status.)
func problemInvalid(err error) problem {
	p := problem{status: http.StatusUnprocessableEntity, sdk: "paylera.validation_failed", core: "validation.failed", title: "The request is not valid.", detail: err.Error()}
	seen := make(map[fieldError]bool)
	for _, e := range flatten(err) {
		var field fieldError
		if errors.As(e, &field) && !seen[field] {
			seen[field] = true
			p.errors = append(p.errors, field)
		}
	}
	return p
}

// flatten takes apart what errors.Join put together.
func flatten(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// problemStatus is a problem that a fault asks for by status.
func problemStatus(status int) problem {
	switch status {
	case http.StatusUnauthorized:
		return problemUnauthenticated()
	case http.StatusForbidden:
		return problemForbidden()
	case http.StatusNotFound:
		return problemNotFound()
	case http.StatusConflict:
		return problemKeyRunning()
	case http.StatusTooManyRequests:
		return problemRateLimited()
	case http.StatusUnprocessableEntity:
		return problemInvalid(fieldError{"body", "is refused on purpose"})
	}
	if status >= 500 {
		return problem{status: status, sdk: "paylera.server_error", core: "server.error", title: http.StatusText(status)}
	}
	return problem{status: status, sdk: "paylera.error", core: "error", title: http.StatusText(status)}
}

// answer writes a problem as the family of f does: one is told by type, with the
// request's id in a header, the other by problem, with the id in trace_id. Each
// has only its own discriminator, so that a client which reads just one is found
// out.
func (p problem) answer(f family, requestID, instance string) answer {
	body := struct {
		Type     string       `json:"type"`
		Title    string       `json:"title"`
		Status   int          `json:"status"`
		Detail   string       `json:"detail,omitempty"`
		Instance string       `json:"instance,omitempty"`
		Problem  string       `json:"problem,omitempty"`
		TraceID  string       `json:"trace_id,omitempty"`
		Errors   []fieldError `json:"errors,omitempty"`
	}{Type: p.sdk, Title: p.title, Status: p.status, Detail: p.detail, Instance: instance, Errors: p.errors}
	if f == familyCore {
		body.Type, body.Problem, body.TraceID = "about:blank", p.core, requestID
	}
	return answer{status: p.status, contentType: "application/problem+json", body: encode(body)}
}

// encode marshals what is known to be encodable.
func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic("entitlementstest: encode an answer: " + err.Error())
	}
	return body
}
