package guest

import (
	"sync"

	"github.com/firerunner/firerunner"
)

// keptOrders remembers the greatest order that was given to each guest, because an order may have been on its way
// when the connection broke: a guest that comes back is told again. Guests obey an order once, however often it comes.
// What is beyond the limit is not remembered; a new order is what makes up for that, as after a crash of the daemon.
type keptOrders struct {
	limit int

	mu sync.Mutex
	of map[string]firerunner.GuestOrder
	// order of arrival, so that the oldest make room: most are of guests that are long gone
	ids []string
}

func newKeptOrders(limit int) *keptOrders {
	return &keptOrders{limit: limit, of: map[string]firerunner.GuestOrder{}}
}

func (k *keptOrders) keep(id string, order firerunner.GuestOrder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	had, known := k.of[id]
	if had == firerunner.OrderStop {
		return // there is no greater one
	}
	k.of[id] = order
	if known {
		return
	}
	k.ids = append(k.ids, id)
	if len(k.ids) > k.limit {
		delete(k.of, k.ids[0])
		k.ids = k.ids[1:]
	}
}

// get returns the order of a guest, empty for none.
func (k *keptOrders) get(id string) firerunner.GuestOrder {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.of[id]
}
