//! Asking for memory before it is needed.

/// Starts to load the cache line at which `value` begins. A hint: it changes nothing but time.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    prefetch_at(value);
}

/// The same, of an address where there need not be a value.
#[inline(always)]
pub(crate) fn prefetch_at<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults and writes nothing, whatever the address; SSE is part
        // of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let _ = address;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_prefetched_value_is_unchanged() {
        let value = [7_u64; 16];
        super::prefetch(&value);
        assert_eq!(value, [7; 16]);
    }
}
