// Package chaos has only tests: a Client whose way to the billing API is cut,
// throttled, delayed and half-open at random, while the API itself fails, limits
// and loses answers. It is a module of its own, so that who embeds the library
// does not get the proxy's dependencies.
package chaos
