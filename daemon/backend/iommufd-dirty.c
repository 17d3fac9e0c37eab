/* See iommufd-private.h. */
#include "backend/iommufd-private.h"
