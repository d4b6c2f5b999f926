package lockwait

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freed := time.Now().Add(time.Hour)
		free := func() (bool, error) { return !time.Now().Before(freed), nil }
		if err := Until(t.Context(), free); err != nil {
			t.Error(err)
		}
		if late := time.Since(freed); late < 0 || late > longestPause {
			t.Errorf("taken %v after it was free", late)
		}
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(io.ErrClosedPipe)
		if err := Until(ended, free); err != nil {
			t.Errorf("one that is free: %v", err)
		}
		if err := Until(ended, func() (bool, error) { return false, nil }); !errors.Is(err, ErrHeld) || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the cause is lost: %v", err)
		}
		if err := Until(t.Context(), func() (bool, error) { return false, io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrHeld) {
			t.Errorf("a try that fails: %v", err)
		}
		tries := 0
		within, cancel2 := context.WithTimeout(t.Context(), time.Minute)
		defer cancel2()
		began := time.Now()
		err := Until(within, func() (bool, error) { tries++; return false, nil })
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if most := int(time.Minute/longestPause) + 20; tries > most {
			t.Errorf("%d looks in a minute", tries)
		}
	})
}
